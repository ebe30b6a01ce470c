import fs from 'node:fs'
import path from 'node:path'
import type { NativeMomentumSpec } from '../../binding'
import { checkString } from '../validate'
import { type Architecture, cacheElements } from './architecture'
import { Checkpoint } from './checkpoint'
import { describeHead, describeLayer, readArchitecture } from './describe'
import { type WeightSize, weightSize } from './memory'
import { openCheckpoint } from './open'
import { canonicalPart } from './quantized/canonical'

/** One decoder layer of a checkpoint. */
export interface LayerSummary {
  index: number
  kind: 'moe' | 'dense'
  /** MoE layers only */
  experts?: number
  expertsPerToken?: number
  /** I: width of an expert, or of the dense feed-forward */
  width: number
  sharedWidth?: number
  /** weights of the whole layer, whatever they are coded as */
  parameters: number
  bytes: number
  /** bytes by dtype as stored: { BF16: 123 }, or by format where `smoe quantize` wrote them: { w4: 45 } */
  formats: Record<string, number>
}

/** What a checkpoint folder holds, from its headers alone: no weight is read. */
export interface CheckpointSummary {
  dir: string
  modelType: string
  vocab: number
  hidden: number
  heads: number
  kvHeads: number
  headDim: number
  contextLength: number
  layers: LayerSummary[]
  momentum?: NativeMomentumSpec
  tokenizer: boolean
  files: string[]
  /** weights in all; `active`: those that one token uses */
  parameters: { total: number; active: number }
  bytes: number
  /** weights in memory once loaded on the CPU with precision 'fast'; an estimate where quantized weights are imported */
  loadedBytes: number
  /** KV cache at the full context, in bytes: bf16 for 'fast', f32 for 'exact' */
  kvCacheBytes: { fast: number; exact: number }
  /** tensors that loading does not use */
  unusedTensors: string[]
}

/**
 * Summarises a checkpoint folder; every tensor that loading needs is checked for presence, shape and dtype.
 * Needs no native addon.
 * @throws SmoeError as MoeModel.load
 */
export function inspect(dir: string): CheckpointSummary {
  checkString('dir', dir)
  const architecture = readArchitecture(dir)
  const checkpoint = openCheckpoint(dir, architecture, (name) => Checkpoint.openHeaders(name))
  try {
    const head = weightSize(describeHead(architecture, checkpoint))
    const sizes = architecture.layers.map((_, i) => weightSize(describeLayer(architecture, i, checkpoint)))
    const layers = architecture.layers.map((_, i) => summarise(architecture, i, sizes[i]!))
    addStored(layers, architecture, checkpoint)
    const all = [...checkpoint.tensors.values()]
    const total = sizes.reduce((sum, { parameters }) => sum + parameters, head.parameters)
    const { heads, kvHeads, headDim, maxPositions } = architecture
    const kvElements = cacheElements(architecture) * maxPositions
    const summary: CheckpointSummary = {
      dir,
      modelType: architecture.modelType,
      vocab: architecture.vocab,
      hidden: architecture.hidden,
      heads,
      kvHeads,
      headDim,
      contextLength: maxPositions,
      layers,
      tokenizer: fs.existsSync(path.join(dir, 'tokenizer.json')),
      files: [...checkpoint.files],
      parameters: { total, active: total - idle(architecture) },
      bytes: all.reduce((sum, entry) => sum + entry.bytes, 0),
      loadedBytes: sizes.reduce((sum, { bytes }) => sum + bytes, head.bytes),
      kvCacheBytes: { fast: 2 * kvElements, exact: 4 * kvElements },
      unusedTensors: checkpoint.unused(),
    }
    if (architecture.momentum !== undefined) summary.momentum = architecture.momentum
    return summary
  } finally {
    checkpoint.close()
  }
}

function summarise(architecture: Architecture, index: number, { parameters }: WeightSize): LayerSummary {
  const { moe, dense } = architecture.layers[index]!
  const summary: LayerSummary = {
    index,
    kind: moe === undefined ? 'dense' : 'moe',
    width: (moe ?? dense)!.width,
    parameters,
    bytes: 0,
    formats: {},
  }
  if (moe !== undefined) {
    summary.experts = moe.experts
    summary.expertsPerToken = moe.router.select.k
    if (moe.shared !== undefined) summary.sharedWidth = moe.shared.width
  }
  return summary
}

/** Adds what each layer takes in the files. */
function addStored(layers: LayerSummary[], { layers: plans }: Architecture, checkpoint: Checkpoint): void {
  const indexes = new Map(plans.map(({ prefix }, i) => [prefix, i]))
  for (const { name, dtype, bytes } of checkpoint.tensors.values()) {
    const part = canonicalPart(name)
    const prefix = /^.*?\.\d+\./.exec(name)?.[0] ?? ''
    const layer = layers[part?.layer ?? indexes.get(prefix) ?? -1]
    if (layer === undefined) continue
    const format = part?.format ?? dtype
    layer.bytes += bytes
    layer.formats[format] = (layer.formats[format] ?? 0) + bytes
  }
}

/** Elements of the experts that a token does not visit. */
function idle(architecture: Architecture): number {
  let elements = 0
  for (const { moe } of architecture.layers) {
    if (moe !== undefined)
      elements += (moe.experts - moe.router.select.k) * 3 * moe.width * architecture.hidden
  }
  return elements
}
