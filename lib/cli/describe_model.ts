import { Checkpoint, type CheckpointTensor } from '../checkpoint/checkpoint'
import { readArchitecture } from '../checkpoint/describe'

export interface LayerSummary {
  layer: number
  kind: 'moe' | 'dense'
  experts: number
  topK: number
  /** Of one expert, or of the dense feed-forward. */
  width: number
  shared: boolean
  dtypes: string[]
  parameters: number
  bytes: number
}

export interface ModelSummary {
  modelType: string
  hidden: number
  vocabulary: number
  heads: number
  kvHeads: number
  headDim: number
  maxPositions: number
  momentum: object | null
  parameters: number
  /** Those that one token meets: all but the experts it is not sent to. */
  activeParameters: number
  bytes: number
  files: readonly string[]
  layers: LayerSummary[]
  tensors: readonly CheckpointTensor[]
}

const elements = (tensor: CheckpointTensor): number =>
  tensor.shape.reduce((product, size) => product * size, 1)

/** What the headers of a checkpoint say; no weight is read and the addon is not needed. */
export function describeModel(dir: string): ModelSummary {
  const architecture = readArchitecture(dir)
  const checkpoint = Checkpoint.openHeaders(dir)
  try {
    const tensors = [...checkpoint.tensors.values()]
    let idle = 0
    const layers = architecture.layers.map(({ prefix, moe, dense }, layer): LayerSummary => {
      const own = tensors.filter(({ name }) => name.startsWith(prefix))
      const topK = moe?.router.select.k ?? 0
      if (moe) idle += (moe.experts - topK) * 3 * moe.width * architecture.hidden
      return {
        layer,
        kind: moe ? 'moe' : 'dense',
        experts: moe?.experts ?? 0,
        topK,
        width: moe?.width ?? dense?.width ?? 0,
        shared: moe?.shared !== undefined,
        dtypes: [...new Set(own.map(({ dtype }) => dtype))].sort(),
        parameters: own.reduce((sum, tensor) => sum + elements(tensor), 0),
        bytes: own.reduce((sum, { bytes }) => sum + bytes, 0),
      }
    })
    const { modelType, hidden, vocab, heads, kvHeads, headDim, maxPositions, momentum } = architecture
    const parameters = tensors.reduce((sum, tensor) => sum + elements(tensor), 0)
    return {
      modelType,
      hidden,
      vocabulary: vocab,
      heads,
      kvHeads,
      headDim,
      maxPositions,
      momentum: momentum ?? null,
      parameters,
      activeParameters: parameters - idle,
      bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
      files: checkpoint.files,
      layers,
      tensors,
    }
  } finally {
    checkpoint.close()
  }
}
