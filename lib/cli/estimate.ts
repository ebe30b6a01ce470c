import { Checkpoint } from '../checkpoint/checkpoint'

/** What native/formats/packed_matrix.h makes of a tensor: rows padded to 16, 16-bit columns to 2; f16 kept as f32. */
function packedBytes(shape: readonly number[], dtype: string): number {
  const columns = shape.at(-1) ?? 1
  if (shape.length < 2) return columns * 4 // norms and biases
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1)
  const paddedRows = Math.ceil(rows / 16) * 16
  return dtype === 'BF16' ? paddedRows * Math.ceil(columns / 2) * 4 : paddedRows * columns * 4
}

/** Bytes of the packed weights of a loaded model, from the headers alone; scratch and caches come on top. */
export function estimateWeightBytes(dir: string): number {
  const checkpoint = Checkpoint.openHeaders(dir)
  try {
    return [...checkpoint.tensors.values()].reduce(
      (sum, { shape, dtype }) => sum + packedBytes(shape, dtype),
      0,
    )
  } finally {
    checkpoint.close()
  }
}
