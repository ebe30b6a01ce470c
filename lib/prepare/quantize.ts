import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import type { Calibration, NativeExpert, QuantizedMatrix, TensorSource } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import type { Checkpoint } from '../checkpoint/checkpoint'
import { describeMoe, readArchitecture } from '../checkpoint/describe'
import { openCheckpoint } from '../checkpoint/open'
import {
  type Projection,
  canonicalVersion,
  projectionNames,
  quantKey,
  versionKey,
} from '../checkpoint/quantized/canonical'
import { type SafetensorsDtype, type TensorToWrite, writeSafetensors } from '../checkpoint/write_safetensors'
import { SmoeError } from '../errors'
import { abortable, native } from '../native'
import { checkString } from '../validate'
import { CalibrationRun } from './calibration'
import { CanonicalLayer } from './canonical_writer'
import {
  type ExpertPlan,
  type LayerPlan,
  type QuantizePlan,
  chooseFormats,
  codeBits,
  layerCosts,
  mixFormats,
} from './plan_quantize'
import {
  type QuantizeOptions,
  type QuantizeSettings,
  checkQuantizeOptions,
  nativeOptions,
} from './quantize_options'

/** What became of one layer. */
export interface QuantizedLayerReport extends LayerPlan {
  /** bytes of its routed experts before and after */
  bytesBefore: number
  bytesAfter: number
  /** sqrt(sum (w - w^)^2 / sum w^2) over them */
  weightError: number
  /** experts that calibration did not reach well enough */
  fallbacks: number
}

export interface QuantizeReport {
  plan: QuantizePlan
  layers: QuantizedLayerReport[]
  bytesBefore: number
  bytesAfter: number
}

/** Files beside the weights that make a checkpoint usable. */
const companions = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'vocab.json',
  'merges.txt',
  'LICENSE',
  'NOTICE',
]

/**
 * Quantizes the routed experts of a checkpoint and writes it, everything else unchanged, in the canonical form that
 * MoeModel.load() reads. The folder appears under its name when it is complete; a failed or aborted call leaves nothing.
 * @throws SmoeError as MoeModel.load, ERR_SMOE_FILE_WRITE when outDir exists or cannot be written
 */
export async function quantizeCheckpoint(
  dir: string,
  outDir: string,
  options?: QuantizeOptions,
): Promise<QuantizeReport> {
  checkString('dir', dir)
  checkString('outDir', outDir)
  const settings = checkQuantizeOptions(options)
  settings.signal?.throwIfAborted()
  if (fs.existsSync(outDir)) throw new SmoeError('ERR_SMOE_FILE_WRITE', `${outDir} exists already`)
  const architecture = readArchitecture(dir)
  const checkpoint = openCheckpoint(dir, architecture)
  const temporary = `${path.resolve(outDir)}.${randomBytes(6).toString('hex')}.tmp`
  let run: CalibrationRun | undefined
  try {
    if (checkpoint.quantized !== undefined) {
      throw new SmoeError('ERR_SMOE_UNSUPPORTED_ARCHITECTURE', `${dir} is quantized already`)
    }
    run = await CalibrationRun.open(dir, architecture, settings)
    makeFolder(temporary)
    const report = await new Work(architecture, checkpoint, settings, run, temporary).all()
    for (const name of companions) {
      const from = path.join(dir, name)
      if (fs.existsSync(from)) fs.copyFileSync(from, path.join(temporary, name))
    }
    fs.renameSync(temporary, outDir)
    return report
  } catch (error) {
    fs.rmSync(temporary, { recursive: true, force: true })
    throw error
  } finally {
    run?.dispose()
    checkpoint.close()
  }
}

function makeFolder(dir: string): void {
  try {
    fs.mkdirSync(dir, { recursive: true })
  } catch (error) {
    throw new SmoeError('ERR_SMOE_FILE_WRITE', `cannot make ${dir}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

type Matrices = Map<Projection, QuantizedMatrix>

/** One run of quantizeCheckpoint, layer after layer: the experts of one layer are in memory at a time. */
class Work {
  readonly #weightMap: Record<string, string> = {}
  readonly #layers: QuantizedLayerReport[] = []
  #done = 0

  constructor(
    private readonly architecture: Architecture,
    private readonly checkpoint: Checkpoint,
    private readonly settings: QuantizeSettings,
    private readonly run: CalibrationRun | undefined,
    private readonly dir: string,
  ) {}

  async all(): Promise<QuantizeReport> {
    const indexes = this.architecture.layers.flatMap((plan, i) => (plan.moe === undefined ? [] : [i]))
    const metadata = {
      [versionKey]: canonicalVersion,
      [quantKey]: JSON.stringify({
        format: this.settings.bits === undefined ? this.settings.format : 'mixed',
        bits: this.settings.bits,
        method: this.settings.method,
        symmetric: this.settings.symmetric,
        rounding: 'nearest-even',
      }),
    }
    const blocks: [number, number][] = this.run?.blocks() ?? [[0, this.architecture.layers.length]]
    for (const block of blocks) {
      const sums = await this.run?.collect(block)
      try {
        for (const index of indexes.filter((i) => i >= block[0] && i < block[1])) {
          const tensors = await this.#layer(index, sums)
          await this.#write(`layer-${String(index).padStart(5, '0')}.safetensors`, tensors, metadata)
          this.settings.onProgress({ phase: 'quantize', done: ++this.#done, total: indexes.length })
        }
      } finally {
        sums?.dispose()
      }
    }
    await this.#write('rest.safetensors', this.#rest(indexes), metadata)
    const index = { metadata: {}, weight_map: this.#weightMap }
    fs.writeFileSync(path.join(this.dir, 'model.safetensors.index.json'), JSON.stringify(index))
    const layers = this.#layers
    const plan: QuantizePlan = {
      version: 1,
      kind: 'quantize',
      calibrationTokens: this.run?.tokens ?? 0,
      layers: layers.map(({ layer, experts, bits, cost, bound }) => ({
        layer,
        experts,
        bits,
        ...(cost === undefined ? {} : { cost, bound }),
      })),
    }
    fs.writeFileSync(path.join(this.dir, 'quantize-plan.json'), `${JSON.stringify(plan, null, 2)}\n`)
    const sum = (key: 'bytesBefore' | 'bytesAfter') => layers.reduce((total, layer) => total + layer[key], 0)
    return { plan, layers, bytesBefore: sum('bytesBefore'), bytesAfter: sum('bytesAfter') }
  }

  async #write(file: string, tensors: Record<string, TensorToWrite>, metadata: Record<string, string>) {
    const { signal } = this.settings
    await writeSafetensors(
      path.join(this.dir, file),
      tensors,
      signal === undefined ? { metadata } : { metadata, signal },
    )
    for (const name of Object.keys(tensors)) this.#weightMap[name] = file
  }

  async #layer(index: number, sums: Calibration | undefined): Promise<Record<string, TensorToWrite>> {
    const { experts } = describeMoe(this.architecture, index, this.checkpoint)
    const stats = sums?.stats().find(({ layer }) => layer === index)
    const plans = experts.map((_, expert): ExpertPlan => {
      const share = stats === undefined ? 0 : stats.counts[expert]! / stats.tokens
      const plan: ExpertPlan = {
        expert,
        format: this.settings.format,
        share,
        weight: stats?.weights[expert] ?? 0,
        method: this.settings.method,
      }
      const reached = stats !== undefined && share > 0 && share >= this.settings.leastShare
      if (stats !== undefined && !reached) {
        plan.fallback = 'few calibration tokens'
        if (plan.method === 'gptq') plan.method = 'mse'
      }
      return plan
    })
    const layer: LayerPlan = { layer: index, experts: plans, bits: codeBits[this.settings.format] }
    if (this.settings.bits !== undefined) await this.#mix(experts, sums!, stats!, layer)
    const stacked = new CanonicalLayer(index)
    const report = { bytesBefore: 0, bytesAfter: 0, weightError: 0, fallbacks: 0 }
    let squaredError = 0
    let squaredWeight = 0
    for (const [expert, source] of experts.entries()) {
      const plan = plans[expert]!
      const matrices = await this.#expert(source, plan, sums, index)
      for (const [projection, matrix] of matrices) {
        stacked.add(expert, projection, matrix)
        squaredError += matrix.report.squaredError
        squaredWeight += matrix.report.squaredWeight
        const from = source[projection]!
        report.bytesBefore += matrix.rows * matrix.cols * (from.dtype === 'f32' ? 4 : 2)
        matrix.dispose()
      }
      if (plan.fallback !== undefined) report.fallbacks++
    }
    const tensors = stacked.tensors()
    report.bytesAfter = Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)
    report.weightError = squaredWeight === 0 ? 0 : Math.sqrt(squaredError / squaredWeight)
    this.#layers.push({ ...layer, ...report })
    return tensors
  }

  async #expert(
    source: NativeExpert,
    plan: ExpertPlan,
    sums: Calibration | undefined,
    layer: number,
  ): Promise<Matrices> {
    const made: Matrices = new Map()
    const options = nativeOptions(this.settings, plan.format, plan.method)
    for (const projection of projectionNames) {
      const weight: TensorSource | undefined = source[projection]
      if (weight === undefined) continue
      const part = projection === 'down' ? ('units' as const) : ('input' as const)
      // Too few rows would weigh columns by chance: such an expert is quantized by its weights alone.
      const hessian =
        sums === undefined || plan.fallback !== undefined
          ? undefined
          : { calibration: sums, layer, expert: plan.expert, part }
      const matrix = await abortable(this.settings.signal, (cancel) =>
        native().QuantizedMatrix.quantize(weight, options, hessian, cancel),
      )
      made.set(projection, matrix)
    }
    return made
  }

  /** Tries every format on every expert and lets the budget choose (PMQ). */
  async #mix(
    experts: readonly NativeExpert[],
    sums: Calibration,
    stats: ReturnType<Calibration['stats']>[number],
    layer: LayerPlan,
  ): Promise<void> {
    const formats = mixFormats(this.settings.bits!)
    const errors: (number[] | undefined)[] = []
    for (const [expert, source] of experts.entries()) {
      const plan = layer.experts[expert]!
      this.settings.onProgress({ phase: 'measure', done: expert, total: experts.length })
      if (plan.fallback !== undefined) {
        errors.push(undefined)
        continue
      }
      const own: number[] = []
      plan.errors = {}
      for (const format of formats) {
        const matrices = await this.#expert(source, { ...plan, format }, sums, layer.layer)
        const { error, scale } = await abortable(this.settings.signal, (cancel) =>
          sums.expertError(layer.layer, expert, Object.fromEntries(matrices), cancel),
        )
        for (const matrix of matrices.values()) matrix.dispose()
        own.push(error)
        plan.errors[format] = scale === 0 ? 0 : Math.sqrt(error / scale)
      }
      errors.push(own)
    }
    const chosen = chooseFormats(layerCosts(stats, errors, pmq), { bits: this.settings.bits!, formats })
    for (const [expert, format] of chosen.formats.entries()) layer.experts[expert]!.format = format
    layer.bits = chosen.size / experts.length
    layer.cost = chosen.cost
    layer.bound = chosen.bound
  }

  /** Every tensor that is no expert's, as it is. */
  #rest(indexes: readonly number[]): Record<string, TensorToWrite> {
    const replaced = new Set<string>()
    for (const index of indexes) {
      const plan = this.architecture.layers[index]!.moe!
      if (plan.fused !== undefined)
        for (const name of [plan.fused.gateUp, plan.fused.down]) replaced.add(name)
      for (let e = 0; e < plan.experts; e++) {
        const { gate, up, down } = plan.expert(e)
        for (const name of [gate, up, down]) replaced.add(name)
      }
    }
    const tensors: Record<string, TensorToWrite> = {}
    for (const entry of this.checkpoint.tensors.values()) {
      if (replaced.has(entry.name)) continue
      const data = this.checkpoint.file(entry).read(entry.offset, entry.bytes)
      tensors[entry.name] = { dtype: entry.dtype as SafetensorsDtype, shape: entry.shape, data }
    }
    return tensors
  }
}

/** The error is weighted by the gate and its mean is over routed tokens, so phi alone makes it the layer's total. */
const pmq = { alpha: 1, beta: 0, gamma: 2 }
