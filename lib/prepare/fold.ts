import type { Checkpoint, CheckpointTensor } from '../checkpoint/checkpoint'
import type { SafetensorsDtype, TensorToWrite } from '../checkpoint/write_safetensors'
import { native } from '../native'

/** A tensor as its file has it. */
export function storedTensor(checkpoint: Checkpoint, entry: CheckpointTensor): TensorToWrite {
  const data = checkpoint.file(entry).read(entry.offset, entry.bytes)
  return { dtype: entry.dtype as SafetensorsDtype, shape: entry.shape, data }
}

function floats({ dtype, data }: TensorToWrite): Float32Array {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() // aligned
  if (dtype === 'F32') return new Float32Array(bytes.buffer)
  return native().toF32(new Uint16Array(bytes.buffer), dtype === 'F16' ? 'f16' : 'bf16')
}

function same(a: Float32Array, b: Float32Array): boolean {
  return a.every((value, i) => value === b[i])
}

/**
 * The tensor with its columns (a vector: its elements) multiplied. Powers of two are exact in its own dtype, except at the
 * ends of its range: then it is written as F32.
 */
export function scaledColumns(tensor: TensorToWrite, scale: Float32Array): TensorToWrite {
  const values = floats(tensor).map((value, i) => value * scale[i % scale.length]!)
  if (tensor.dtype === 'F32') return { ...tensor, data: values }
  const dtype = tensor.dtype === 'F16' ? 'f16' : 'bf16'
  const rounded = native().fromF32(values, dtype)
  if (same(native().toF32(rounded, dtype), values)) return { ...tensor, data: rounded }
  return { ...tensor, dtype: 'F32', data: values }
}

export function asBf16(tensor: TensorToWrite): TensorToWrite {
  if (tensor.dtype === 'BF16') return tensor
  return { ...tensor, dtype: 'BF16', data: native().fromF32(floats(tensor), 'bf16') }
}
