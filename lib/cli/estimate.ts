import { Checkpoint, type CheckpointTensor } from '../checkpoint/checkpoint'
import { weightCount } from '../checkpoint/quantization'

/**
 * What native/formats/packed_matrix.h makes of a tensor in 'fast': rows padded to 16, 16-bit columns to 2; bf16 and
 * coded weights as bf16, f16 as f32.
 */
function packedBytes(tensor: CheckpointTensor): number {
  const { shape, dtype } = tensor
  const elements = weightCount(tensor)
  const columns = shape.at(-1) ?? 1
  if (shape.length < 2) return columns * 4 // norms and biases
  if (dtype === 'U8') return elements * 2 // MXFP4: no padding in real sizes
  const rows = elements / columns
  const paddedRows = Math.ceil(rows / 16) * 16
  const narrow = dtype === 'BF16' || dtype.startsWith('F8')
  return narrow ? paddedRows * Math.ceil(columns / 2) * 4 : paddedRows * columns * 4
}

/** Bytes of the packed weights of a loaded model, from the headers alone; scratch and caches come on top. */
export function estimateWeightBytes(dir: string): number {
  const checkpoint = Checkpoint.openHeaders(dir)
  try {
    return [...checkpoint.tensors.values()].reduce((sum, tensor) => sum + packedBytes(tensor), 0)
  } finally {
    checkpoint.close()
  }
}
