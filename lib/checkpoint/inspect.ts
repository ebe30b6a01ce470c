import fs from 'node:fs'
import path from 'node:path'
import type { NativeMomentumSpec } from '../../binding'
import { checkString } from '../validate'
import { type Architecture, cacheElements } from './architecture'
import { Checkpoint } from './checkpoint'
import { describeHead, describeLayer, readArchitecture } from './describe'
import { openCheckpoint } from './open'
import { weightCount } from './quantization'

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
  /** bytes by dtype as stored: { BF16: 123 } */
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
    describeHead(architecture, checkpoint)
    architecture.layers.forEach((_, i) => describeLayer(architecture, i, checkpoint))
    const layers = architecture.layers.map((_, i) => summarise(architecture, i, checkpoint))
    const all = [...checkpoint.tensors.values()]
    const total = all.reduce((sum, entry) => sum + weightCount(entry), 0)
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
      kvCacheBytes: { fast: 2 * kvElements, exact: 4 * kvElements },
      unusedTensors: checkpoint.unused(),
    }
    if (architecture.momentum !== undefined) summary.momentum = architecture.momentum
    return summary
  } finally {
    checkpoint.close()
  }
}

function summarise(architecture: Architecture, index: number, checkpoint: Checkpoint): LayerSummary {
  const { prefix, moe, dense } = architecture.layers[index]!
  const summary: LayerSummary = {
    index,
    kind: moe === undefined ? 'dense' : 'moe',
    width: (moe ?? dense)!.width,
    parameters: 0,
    bytes: 0,
    formats: {},
  }
  if (moe !== undefined) {
    summary.experts = moe.experts
    summary.expertsPerToken = moe.router.select.k
    if (moe.shared !== undefined) summary.sharedWidth = moe.shared.width
  }
  for (const entry of checkpoint.tensors.values()) {
    if (!entry.name.startsWith(prefix)) continue
    summary.parameters += weightCount(entry)
    summary.bytes += entry.bytes
    summary.formats[entry.dtype] = (summary.formats[entry.dtype] ?? 0) + entry.bytes
  }
  return summary
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
