import type { ModelSummary } from './describe_model'

export interface MemoryEstimate {
  /** Packed weights. */
  weightBytes: number
  /** Keys and values of one sequence of `context` tokens. */
  cacheBytes: { fast: number; exact: number }
  context: number
}

const DEFAULT_CONTEXT = 4096

/** What native/formats/packed_matrix.h makes of a matrix: rows padded to 16, 16-bit columns to 2; f16 kept as f32. */
function packedBytes(shape: readonly number[], dtype: string): number {
  const columns = shape.at(-1) ?? 1
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1)
  if (shape.length < 2) return columns * 4 // norms and biases
  const paddedRows = Math.ceil(rows / 16) * 16
  return dtype === 'BF16' ? paddedRows * Math.ceil(columns / 2) * 4 : paddedRows * columns * 4
}

/** Memory that a loaded model needs, without scratch. */
export function estimateMemory(model: ModelSummary, wanted?: number): MemoryEstimate {
  const context = Math.min(wanted ?? DEFAULT_CONTEXT, model.maxPositions)
  const perToken = model.layers.length * model.kvHeads * model.headDim * 2
  return {
    weightBytes: model.tensors.reduce((sum, { shape, dtype }) => sum + packedBytes(shape, dtype), 0),
    cacheBytes: { fast: context * perToken * 2, exact: context * perToken * 4 },
    context,
  }
}
