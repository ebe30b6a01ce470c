/** Element types of tensors. 'f16' and 'bf16' are stored as their 16 bits in a Uint16Array. */
export type Dtype = 'f32' | 'f16' | 'bf16' | 'i32' | 'u8' | 'i8'
/** Dtypes of activations and weights. */
export type FloatDtype = 'f32' | 'f16' | 'bf16'

/** The typed array that stores each dtype. */
export interface DtypeArrays {
  f32: Float32Array
  f16: Uint16Array
  bf16: Uint16Array
  i32: Int32Array
  u8: Uint8Array
  i8: Int8Array
}
export type TensorData = DtypeArrays[Dtype]

export const dtypes: readonly Dtype[] = ['f32', 'f16', 'bf16', 'i32', 'u8', 'i8']

/** Class name of the array that stores a dtype. */
export const arrayNames: Record<Dtype, string> = {
  f32: 'Float32Array',
  f16: 'Uint16Array',
  bf16: 'Uint16Array',
  i32: 'Int32Array',
  u8: 'Uint8Array',
  i8: 'Int8Array',
}

export function allocate<D extends Dtype>(dtype: D, length: number): DtypeArrays[D] {
  switch (dtype) {
    case 'f32':
      return new Float32Array(length) as DtypeArrays[D]
    case 'f16':
    case 'bf16':
      return new Uint16Array(length) as DtypeArrays[D]
    case 'i32':
      return new Int32Array(length) as DtypeArrays[D]
    case 'u8':
      return new Uint8Array(length) as DtypeArrays[D]
    case 'i8':
      return new Int8Array(length) as DtypeArrays[D]
  }
}

/** dtype that a class of arrays stands for; Uint16Array is ambiguous and needs the dtype said. */
export const inferredDtypes: ReadonlyMap<string, Dtype> = new Map([
  ['Float32Array', 'f32'],
  ['Int32Array', 'i32'],
  ['Uint8Array', 'u8'],
  ['Int8Array', 'i8'],
])
