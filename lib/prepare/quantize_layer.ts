import type { Calibration, NativeExpert, NativeMoe, QuantizedMatrix, TensorSource } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import type { Checkpoint } from '../checkpoint/checkpoint'
import { describeMoe } from '../checkpoint/describe'
import { type Projection, projectionNames } from '../checkpoint/quantized/canonical'
import type { TensorToWrite } from '../checkpoint/write_safetensors'
import { abortable, native } from '../native'
import { CanonicalLayer } from './canonical_writer'
import { asBf16, scaledColumns, storedTensor } from './fold'
import { type ExpertPlan, type LayerPlan, type LayerStats, codeBits, layerCosts, pmq } from './plan_quantize'
import { type QuantizeFormat, type QuantizeSettings, nativeOptions } from './quantize_options'
import { type LayerScales, inverse, layerScales } from './smooth'

/** What became of one layer. */
export interface QuantizedLayerReport extends LayerPlan {
  /** bytes of its routed experts, and of a quantized shared expert, before and after */
  bytesBefore: number
  bytesAfter: number
  /** sqrt(sum (w - w^)^2 / sum w^2) over the routed experts */
  weightError: number
  /** experts that calibration did not reach well enough */
  fallbacks: number
}

type Matrices = Map<Projection, QuantizedMatrix>

/** Squared output errors of the experts under every format of a mix, and of what they put out. */
export interface Measured {
  errors: (number[] | undefined)[]
  scales: (number | undefined)[]
}

/** One MoE layer on its way into the canonical form: its experts are in memory one at a time. */
export class LayerWork {
  readonly plan: LayerPlan
  readonly #moe: NativeMoe
  readonly #stats: LayerStats | undefined
  #scales: LayerScales | undefined

  private constructor(
    readonly index: number,
    private readonly architecture: Architecture,
    private readonly checkpoint: Checkpoint,
    private readonly settings: QuantizeSettings,
    private readonly sums: Calibration | undefined,
  ) {
    this.#moe = describeMoe(architecture, index, checkpoint)
    this.#stats = sums?.stats().find(({ layer }) => layer === index)
    const experts = this.#moe.experts.map((_, expert) => this.#expertPlan(expert))
    this.plan = { layer: index, experts, bits: codeBits(settings.format, settings.planes) }
    if (this.#stats !== undefined) this.plan.tokens = this.#stats.tokens
  }

  static async open(
    index: number,
    architecture: Architecture,
    checkpoint: Checkpoint,
    settings: QuantizeSettings,
    sums: Calibration | undefined,
  ): Promise<LayerWork> {
    const work = new LayerWork(index, architecture, checkpoint, settings, sums)
    if (sums === undefined) return work
    work.#scales = await layerScales(sums, index, work.#moe, settings)
    if (work.#scales !== undefined) work.plan.smooth = work.#scales.report
    return work
  }

  #expertPlan(expert: number): ExpertPlan {
    const { format, method, leastShare, starved } = this.settings
    const stats = this.#stats
    const share = stats === undefined ? 0 : stats.counts[expert]! / stats.tokens
    const plan: ExpertPlan = { expert, format, share, weight: stats?.weights[expert] ?? 0, method }
    if (stats !== undefined && (share === 0 || share < leastShare)) {
      plan.fallback = 'few calibration tokens'
      plan.fallbackTo = starved
      if (starved === 'weights' && plan.method === 'gptq') plan.method = 'mse'
    }
    return plan
  }

  /** Tries every format on every expert. Undefined for experts that calibration did not reach. */
  async measure(formats: readonly QuantizeFormat[]): Promise<Measured> {
    const { signal, onProgress } = this.settings
    const { experts } = this.#moe
    const measured: Measured = { errors: [], scales: [] }
    for (const [expert, source] of experts.entries()) {
      const plan = this.plan.experts[expert]!
      onProgress({ phase: 'measure', done: expert, total: experts.length })
      if (plan.fallback !== undefined) {
        measured.errors.push(undefined)
        measured.scales.push(undefined)
        continue
      }
      const own: number[] = []
      let size = 0
      plan.errors = {}
      for (const format of formats) {
        const matrices = await this.#expert(source, { ...plan, format })
        const { error, scale } = await abortable(signal, (cancel) =>
          this.sums!.expertError(
            this.index,
            expert,
            Object.fromEntries(matrices),
            cancel,
            this.#scales?.input,
          ),
        ).finally(() => dispose(matrices))
        own.push(error)
        size = scale
        plan.errors[format] = scale === 0 ? 0 : Math.sqrt(error / scale)
      }
      measured.errors.push(own)
      measured.scales.push(size)
    }
    // Where calibration reached no expert at all, each bit counts for a factor of two.
    if (measured.errors.every((own) => own === undefined)) {
      measured.errors = measured.errors.map(() => formats.map((format) => 4 ** -codeBits(format)))
      for (const format of formats) (this.plan.errors ??= {})[format] = 2 ** -codeBits(format)
      return measured
    }
    const costs = layerCosts(this.#stats!, measured.errors, pmq)
    const outputs = layerCosts(
      this.#stats!,
      measured.scales.map((scale) => (scale === undefined ? undefined : [scale])),
      pmq,
    )
    const sum = (table: number[][], j: number) => table.reduce((total, row) => total + (row[j] ?? 0), 0)
    const output = sum(outputs, 0)
    this.plan.errors = {}
    for (const [j, format] of formats.entries())
      this.plan.errors[format] = output === 0 ? 0 : Math.sqrt(sum(costs, j) / output)
    return measured
  }

  /** The costs of a mix within this layer. */
  costs(measured: Measured): number[][] {
    return layerCosts(this.#stats!, measured.errors, pmq)
  }

  /** Weights of its routed experts. */
  get weights(): number {
    const { hidden } = this.architecture
    const { experts, width } = this.architecture.layers[this.index]!.moe!
    return 3 * experts * width * hidden
  }

  /**
   * The tensors of the layer's file: stacks of quantized matrices, and what smoothing changed. `replaced` gets the names
   * of the tensors that they stand for.
   */
  async tensors(replaced: Set<string>): Promise<[Record<string, TensorToWrite>, QuantizedLayerReport]> {
    const stacked = new CanonicalLayer(this.index)
    const report = { bytesBefore: 0, bytesAfter: 0, weightError: 0, fallbacks: 0 }
    let squaredError = 0
    let squaredWeight = 0
    for (const [expert, source] of this.#moe.experts.entries()) {
      const plan = this.plan.experts[expert]!
      const matrices = await this.#expert(source, plan)
      for (const [projection, matrix] of matrices) {
        await stacked.add(`experts.${projection}`, expert, matrix)
        squaredError += matrix.report.squaredError
        squaredWeight += matrix.report.squaredWeight
        report.bytesBefore += bytesOf(source[projection]!)
      }
      dispose(matrices)
      if (plan.fallback !== undefined) report.fallbacks++
    }
    report.bytesBefore += await this.#shared(stacked)
    report.weightError = squaredWeight === 0 ? 0 : Math.sqrt(squaredError / squaredWeight)
    const made = stacked.tensors()
    report.bytesAfter = Object.values(made).reduce((sum, { data }) => sum + data.byteLength, 0)
    const tensors = { ...made, ...(await this.#router()), ...this.#changed() }
    this.#replaced(replaced)
    for (const name of Object.keys(tensors)) replaced.add(name)
    return [tensors, { ...this.plan, ...report }]
  }

  async #expert(source: NativeExpert, plan: ExpertPlan): Promise<Matrices> {
    const { settings, sums } = this
    const made: Matrices = new Map()
    const down = this.#scales?.units.get(plan.expert)
    try {
      for (const projection of projectionNames) {
        const weight = source[projection]
        if (weight === undefined) continue
        const part = projection === 'down' ? ('units' as const) : ('input' as const)
        // Too few rows would weigh columns by chance: such an expert has its weights alone, or the layer's inputs.
        const starved = plan.fallback !== undefined
        const known = sums !== undefined && (!starved || (plan.fallbackTo === 'layer' && part === 'input'))
        const method = known || plan.method !== 'gptq' ? plan.method : 'mse'
        const options = nativeOptions(settings, plan.format, method, weight.shape[1]!)
        const inputScale = part === 'input' ? this.#scales?.input : down
        if (inputScale !== undefined) options.inputScale = inputScale
        if (projection === 'up' && down !== undefined) options.rowScale = inverse(down)
        const hessian = known
          ? {
              calibration: sums,
              layer: this.index,
              expert: plan.expert,
              part,
              blend: starved ? weight.shape[1]! : 0,
            }
          : undefined
        made.set(
          projection,
          await abortable(settings.signal, (cancel) =>
            native().QuantizedMatrix.quantize(weight, options, hessian, cancel),
          ),
        )
      }
      return made
    } catch (error) {
      dispose(made)
      throw error
    }
  }

  /** A shared expert in a format of its own; the bytes that it had. */
  async #shared(stacked: CanonicalLayer): Promise<number> {
    const { shared: format, signal } = this.settings
    const { shared } = this.#moe
    if (shared === undefined || format === 'keep' || format === 'bf16') return 0
    let bytes = 0
    for (const projection of projectionNames) {
      const weight = shared[projection]
      if (weight === undefined) continue
      const options = nativeOptions({ ...this.settings, symmetric: true }, format, 'mse', weight.shape[1]!)
      const input = this.#scales?.input
      if (projection !== 'down' && input !== undefined) options.inputScale = input
      const matrix = await abortable(signal, (cancel) =>
        native().QuantizedMatrix.quantize(weight, options, undefined, cancel),
      )
      await stacked.add(`shared.${projection}`, 0, matrix)
      matrix.dispose()
      bytes += bytesOf(weight)
    }
    return bytes
  }

  /** The router in 8 bits, when that is asked for. */
  async #router(): Promise<Record<string, TensorToWrite>> {
    if (!this.settings.alignRouter) return {}
    const { routerWeight, routerBias } = this.#moe
    const { k } = this.architecture.layers[this.index]!.moe!.router.select
    const input = this.#scales?.input
    const { ratio, kl, klPlain, matrix } = await abortable(this.settings.signal, (cancel) =>
      this.sums!.alignRouter(
        this.index,
        routerWeight,
        {
          k,
          ...(routerBias === undefined ? {} : { bias: routerBias }),
          ...(input === undefined ? {} : { inputScale: input }),
        },
        cancel,
      ),
    )
    const stacked = new CanonicalLayer(this.index)
    await stacked.add('router.weight', 0, matrix)
    matrix.dispose()
    this.plan.router = { ratio, kl, klPlain }
    return stacked.tensors()
  }

  /** The tensors around the experts that smoothing or `shared: 'bf16'` changes, under their own names. */
  #changed(): Record<string, TensorToWrite> {
    const plan = this.architecture.layers[this.index]!
    const { shared, routerWeight } = plan.moe!
    const { checkpoint, settings } = this
    const input = this.#scales?.input
    const changed: Record<string, TensorToWrite> = {}
    const put = (name: string, change: (tensor: TensorToWrite) => TensorToWrite) => {
      changed[name] = change(changed[name] ?? storedTensor(checkpoint, checkpoint.use(name)))
    }
    if (shared !== undefined && settings.shared === 'bf16')
      for (const projection of projectionNames) put(shared[projection], asBf16)
    if (input === undefined) return changed
    const columns = (tensor: TensorToWrite) => scaledColumns(tensor, input)
    put(`${plan.prefix}post_attention_layernorm.weight`, (tensor) => scaledColumns(tensor, inverse(input)))
    if (!settings.alignRouter)
      put(routerWeight.find((name) => checkpoint.has(name)) ?? routerWeight[0]!, columns)
    if (shared === undefined) return changed
    if (settings.shared === 'keep' || settings.shared === 'bf16')
      for (const projection of ['gate', 'up'] as const) put(shared[projection], columns)
    if (shared.sigmoidGate !== undefined) put(shared.sigmoidGate, columns)
    return changed
  }

  /** Names of the tensors that the stacks stand for, and of the scales beside coded ones. */
  #replaced(names: Set<string>): void {
    const plan = this.architecture.layers[this.index]!.moe!
    const add = (name: string) => {
      for (const suffix of ['', '_scale_inv', '_blocks', '_scales']) names.add(name + suffix)
    }
    if (plan.fused !== undefined) for (const name of [plan.fused.gateUp, plan.fused.down]) add(name)
    for (let e = 0; e < plan.experts; e++)
      for (const projection of projectionNames) add(plan.expert(e)[projection])
    const { shared, alignRouter } = this.settings
    if (plan.shared !== undefined && shared !== 'keep' && shared !== 'bf16')
      for (const projection of projectionNames) add(plan.shared[projection])
    if (alignRouter) for (const name of plan.routerWeight) add(name)
  }
}

function dispose(matrices: Matrices): void {
  for (const matrix of matrices.values()) matrix.dispose()
}

const bytesOf = ({ shape, dtype }: TensorSource): number =>
  shape.reduce((product, size) => product * size, dtype === 'f32' ? 4 : 2)
