import fs from 'node:fs'
import path from 'node:path'
import type { Calibration } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import type { Checkpoint } from '../checkpoint/checkpoint'
import { readArchitecture } from '../checkpoint/describe'
import { FileSource } from '../checkpoint/file_source'
import { openCheckpoint } from '../checkpoint/open'
import { canonicalVersion, quantKey, versionKey } from '../checkpoint/quantized/canonical'
import { type TensorToWrite, writeSafetensors } from '../checkpoint/write_safetensors'
import { SmoeError } from '../errors'
import { checkString } from '../validate'
import { CalibrationRun } from './calibration'
import { storedTensor } from './fold'
import { OutputFolder, checkOutputFolder, writing } from './output_folder'
import {
  type LayerPlan,
  type QuantizePlan,
  chooseFormats,
  chooseLayerFormats,
  codeBits,
  mixFormats,
} from './plan_quantize'
import { LayerWork, type QuantizedLayerReport } from './quantize_layer'
import {
  type QuantizeFormat,
  type QuantizeOptions,
  type QuantizeSettings,
  checkQuantizeOptions,
} from './quantize_options'

export type { QuantizedLayerReport } from './quantize_layer'

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
 * @throws SmoeError as MoeModel.load, ERR_SMOE_FILE_WRITE when outDir exists or cannot be written: refused before any work
 */
export async function quantizeCheckpoint(
  dir: string,
  outDir: string,
  options?: QuantizeOptions,
): Promise<QuantizeReport> {
  checkString('dir', dir)
  const out = checkOutputFolder('outDir', checkString('outDir', outDir))
  const settings = checkQuantizeOptions(options)
  settings.signal?.throwIfAborted()
  const architecture = readArchitecture(dir)
  checkFolding(architecture, settings)
  const checkpoint = openCheckpoint(dir, architecture)
  let folder: OutputFolder | undefined
  let run: CalibrationRun | undefined
  try {
    if (checkpoint.quantized !== undefined) {
      throw new SmoeError('ERR_SMOE_UNSUPPORTED_ARCHITECTURE', `${dir} is quantized already`)
    }
    folder = new OutputFolder(out) // before the work, which a place that cannot be written would waste
    const { temporary } = folder
    run = await CalibrationRun.open(dir, architecture, settings)
    const report = await new Work(architecture, checkpoint, settings, run, temporary).all()
    for (const name of companions) {
      const from = path.join(dir, name)
      if (fs.existsSync(from)) copyFile(from, path.join(temporary, name))
    }
    folder.finish()
    return report
  } catch (error) {
    folder?.discard()
    throw error
  } finally {
    run?.dispose()
    checkpoint.close()
  }
}

/** Residuals whose look-ahead is added to what the norm puts out, where scales taken from the norm would miss it. */
const lookAhead: ReadonlySet<string> = new Set(['nesterov', 'robust'])

function checkFolding({ momentum }: Architecture, { smooth }: QuantizeSettings): void {
  if (smooth === 'none' || momentum === undefined || !lookAhead.has(momentum.type)) return
  throw new SmoeError(
    'ERR_SMOE_UNSUPPORTED_ARCHITECTURE',
    `smooth '${smooth}' cannot be folded where momentum of type '${momentum.type}' is added after the norm`,
  )
}

/** As fs.copyFileSync, which would wait for ever at a named pipe. */
function copyFile(from: string, to: string): void {
  const source = new FileSource(from)
  try {
    const content = source.read(0, source.size)
    writing(`copy ${from}`, () => fs.writeFileSync(to, content))
  } finally {
    source.close()
  }
}

type Block = [first: number, last: number]

/** One run of quantizeCheckpoint, layer after layer. */
class Work {
  readonly #weightMap: Record<string, string> = {}
  readonly #layers: QuantizedLayerReport[] = []
  readonly #plans: LayerPlan[] = []
  readonly #replaced = new Set<string>()
  readonly #indexes: readonly number[]
  readonly #metadata: Record<string, string>
  /** sums that both passes use, when one block holds all layers */
  #sums: Calibration | undefined

  constructor(
    private readonly architecture: Architecture,
    private readonly checkpoint: Checkpoint,
    private readonly settings: QuantizeSettings,
    private readonly run: CalibrationRun | undefined,
    private readonly dir: string,
  ) {
    this.#indexes = architecture.layers.flatMap((plan, i) => (plan.moe === undefined ? [] : [i]))
    const { bits, format, method, smooth, symmetric, shared, alignRouter } = settings
    this.#metadata = {
      [versionKey]: canonicalVersion,
      [quantKey]: JSON.stringify({
        format: bits === undefined ? format : 'mixed',
        bits,
        method,
        smooth,
        symmetric,
        shared,
        alignRouter,
        rounding: 'nearest-even',
      }),
    }
  }

  async all(): Promise<QuantizeReport> {
    try {
      const chosen = this.settings.allocate === 'layer' ? await this.#chooseLayers() : undefined
      await this.#blocks(async (index, sums) => {
        await this.#layer(index, sums, chosen?.get(index))
        this.settings.onProgress({
          phase: 'quantize',
          done: this.#layers.length,
          total: this.#indexes.length,
        })
      })
    } finally {
      this.#sums?.dispose()
    }
    await this.#write('rest.safetensors', this.#rest())
    this.#writeText('model.safetensors.index.json', { metadata: {}, weight_map: this.#weightMap })
    const layers = this.#layers
    const plan: QuantizePlan = {
      version: 1,
      kind: 'quantize',
      calibrationTokens: Math.max(0, ...layers.map(({ tokens = 0 }) => tokens)),
      layers: this.#plans,
    }
    this.#writeText('quantize-plan.json', plan, 2)
    const sum = (key: 'bytesBefore' | 'bytesAfter') => layers.reduce((total, layer) => total + layer[key], 0)
    return { plan, layers, bytesBefore: sum('bytesBefore'), bytesAfter: sum('bytesAfter') }
  }

  /** Visits every MoE layer with the sums of its block, which are collected once per visit of a block. */
  async #blocks(visit: (index: number, sums: Calibration | undefined) => Promise<void>): Promise<void> {
    const blocks: Block[] = this.run?.blocks() ?? [[0, this.architecture.layers.length]]
    for (const block of blocks) {
      const sums = this.#sums ?? (await this.run?.collect(block))
      if (blocks.length === 1) this.#sums = sums
      try {
        for (const index of this.#indexes.filter((i) => i >= block[0] && i < block[1]))
          await visit(index, sums)
      } finally {
        if (blocks.length > 1) sums?.dispose()
      }
    }
  }

  #open(index: number, sums: Calibration | undefined): Promise<LayerWork> {
    return LayerWork.open(index, this.architecture, this.checkpoint, this.settings, sums)
  }

  /** One format per layer under the budget of all: a first pass that only measures. */
  async #chooseLayers(): Promise<Map<number, LayerWork['plan'] & { format: QuantizeFormat }>> {
    const formats = mixFormats(this.settings.bits!)
    const works: LayerWork[] = []
    await this.#blocks(async (index, sums) => {
      const work = await this.#open(index, sums)
      await work.measure(formats)
      works.push(work)
    })
    const layers = works.map(({ plan, weights }) => ({ weights, errors: plan.errors! }))
    const { formats: chosen, cost, bound } = chooseLayerFormats(layers, this.settings.bits!, formats)
    return new Map(works.map(({ index, plan }, i) => [index, { ...plan, format: chosen[i]!, cost, bound }]))
  }

  async #layer(
    index: number,
    sums: Calibration | undefined,
    chosen: (LayerWork['plan'] & { format: QuantizeFormat }) | undefined,
  ): Promise<void> {
    const work = await this.#open(index, sums)
    const { plan } = work
    const { bits } = this.settings
    if (chosen !== undefined) {
      const { format, errors, cost, bound } = chosen
      for (const [i, expert] of plan.experts.entries()) {
        expert.format = format
        const own = chosen.experts[i]!.errors
        if (own !== undefined) expert.errors = own
      }
      Object.assign(plan, { errors, cost, bound, bits: codeBits(format) })
    } else if (bits !== undefined) {
      const formats = mixFormats(bits)
      const costs = work.costs(await work.measure(formats))
      const { formats: mix, size, cost, bound } = chooseFormats(costs, { bits, formats })
      for (const [expert, format] of mix.entries()) plan.experts[expert]!.format = format
      Object.assign(plan, { bits: size / plan.experts.length, cost, bound })
    }
    const [tensors, report] = await work.tensors(this.#replaced)
    await this.#write(`layer-${String(index).padStart(5, '0')}.safetensors`, tensors)
    this.#layers.push(report)
    this.#plans.push(plan)
  }

  async #write(file: string, tensors: Record<string, TensorToWrite>) {
    const { signal } = this.settings
    const metadata = this.#metadata
    await writeSafetensors(
      path.join(this.dir, file),
      tensors,
      signal === undefined ? { metadata } : { metadata, signal },
    )
    for (const name of Object.keys(tensors)) this.#weightMap[name] = file
  }

  #writeText(name: string, value: unknown, indent?: number): void {
    const file = path.join(this.dir, name)
    writing(`write ${file}`, () => fs.writeFileSync(file, `${JSON.stringify(value, null, indent)}\n`))
  }

  /** Every tensor that no layer's file stands for, as it is. */
  #rest(): Record<string, TensorToWrite> {
    const tensors: Record<string, TensorToWrite> = {}
    for (const entry of this.checkpoint.tensors.values())
      if (!this.#replaced.has(entry.name)) tensors[entry.name] = storedTensor(this.checkpoint, entry)
    return tensors
  }
}
