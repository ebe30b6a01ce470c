import { type Device, checkHostDevice } from '../device'
import { SmoeError, rangeError, typeError } from '../errors'
import { guarded, native } from '../native'
import { arrayKind, checkOneOf, shapeProduct, shapeText } from '../validate'
import {
  type Dtype,
  type DtypeArrays,
  type FloatDtype,
  type TensorData,
  allocate,
  arrayNames,
  dtypes,
  inferredDtypes,
} from './dtype'

/**
 * A typed array with a shape and a dtype, row-major. It holds the given array, not a copy: writing to either shows
 * in both. Calls that take a tensor copy what they need before they return, unless they say otherwise.
 */
export class Tensor<D extends Dtype = Dtype> {
  readonly shape: readonly number[]
  readonly dtype: D
  readonly device = 'cpu'
  #data: DtypeArrays[D] | undefined
  readonly #length: number

  private constructor(data: DtypeArrays[D], shape: readonly number[], dtype: D) {
    this.#data = data
    this.#length = data.length
    this.shape = shape
    this.dtype = dtype
  }

  /**
   * A tensor over `data` without a copy (views with a byteOffset are fine); number[] is copied.
   * @param shape sizes, outermost first; their product is the length of `data`
   * @param dtype needed for a Uint16Array ('f16' or 'bf16'), else inferred; number[] gives 'f32' unless said
   * @throws TypeError, RangeError; SmoeError ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_DTYPE_MISMATCH, ERR_SMOE_DETACHED_BUFFER
   */
  static from(data: Float32Array, shape: readonly number[], dtype?: 'f32'): Tensor<'f32'>
  static from(data: Int32Array, shape: readonly number[], dtype?: 'i32'): Tensor<'i32'>
  static from(data: Uint8Array, shape: readonly number[], dtype?: 'u8'): Tensor<'u8'>
  static from(data: Int8Array, shape: readonly number[], dtype?: 'i8'): Tensor<'i8'>
  static from<D extends 'f16' | 'bf16'>(data: Uint16Array, shape: readonly number[], dtype: D): Tensor<D>
  static from<D extends Dtype = 'f32'>(
    data: readonly number[],
    shape: readonly number[],
    dtype?: D,
  ): Tensor<D>
  static from(data: TensorData | readonly number[], shape: readonly number[], dtype?: Dtype): Tensor
  static from(data: TensorData | readonly number[], shape: readonly number[], dtype?: Dtype): Tensor {
    if (dtype !== undefined) checkOneOf('dtype', dtype, dtypes)
    const sizes = checkShape(shape)
    if (Array.isArray(data))
      return new Tensor(fromNumbers(data, sizes, dtype ?? 'f32'), sizes, dtype ?? 'f32')
    const kind = arrayKind(data)
    const inferred = kind === undefined ? undefined : inferredDtypes.get(kind)
    if (kind !== 'Uint16Array' && inferred === undefined) {
      throw typeError(
        'data',
        'a Float32Array, Uint16Array, Int32Array, Uint8Array, Int8Array or number[]',
        data,
      )
    }
    const actual = dtype ?? inferred
    if (actual === undefined) throw typeError('dtype', `'f16' or 'bf16' for a Uint16Array`, dtype)
    if (arrayNames[actual] !== kind) {
      throw new SmoeError(
        'ERR_SMOE_DTYPE_MISMATCH',
        `data must be a ${arrayNames[actual]} for dtype '${actual}', got a ${kind}`,
      )
    }
    const array = data as TensorData
    checkLength(array, sizes)
    return new Tensor(array, sizes, actual)
  }

  /** A tensor of zeros. */
  static zeros<D extends Dtype = 'f32'>(shape: readonly number[], dtype?: D): Tensor<D> {
    const actual = (dtype ?? 'f32') as D
    checkOneOf('dtype', actual, dtypes)
    const sizes = checkShape(shape)
    return new Tensor(allocate(actual, shapeProduct(sizes)!), sizes, actual)
  }

  /** Without checks, for results of this package. @internal */
  static wrap<D extends Dtype>(data: DtypeArrays[D], shape: readonly number[], dtype: D): Tensor<D> {
    return new Tensor(data, shape, dtype)
  }

  /**
   * The elements, not a copy.
   * @throws SmoeError ERR_SMOE_DISPOSED; ERR_SMOE_DETACHED_BUFFER when the ArrayBuffer was transferred away
   */
  data(): DtypeArrays[D] {
    const data = this.#data
    if (data === undefined) throw new SmoeError('ERR_SMOE_DISPOSED', 'tensor was used after dispose()')
    if (data.length !== this.#length) throw detached('tensor')
    return data
  }

  /** The elements as f32: the same array for 'f32', else a converted copy. */
  toF32Array(): Float32Array {
    const data = this.data()
    if (this.dtype === 'f32') return data as Float32Array
    const dtype: Dtype = this.dtype
    if (dtype === 'f16' || dtype === 'bf16') {
      return guarded(() => native().toF32(data as Uint16Array, dtype))
    }
    return Float32Array.from(data as Int32Array)
  }

  /**
   * This tensor on a device; itself when it is there already. Tensors stay in host memory: only 'cpu' and 'auto' pass.
   * @throws SmoeError ERR_SMOE_DEVICE_UNAVAILABLE
   */
  to(device: Device): Tensor<D> {
    checkHostDevice(device)
    return this
  }

  /** Lets go of the array. Idempotent. */
  dispose(): void {
    this.#data = undefined
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** A tensor of a floating dtype, else a TypeError or ERR_SMOE_DTYPE_MISMATCH that names the argument. */
export function checkFloatTensor(name: string, value: unknown): Tensor<FloatDtype> {
  if (!(value instanceof Tensor)) throw typeError(name, 'a Tensor', value)
  if (value.dtype !== 'f32' && value.dtype !== 'bf16' && value.dtype !== 'f16') {
    throw new SmoeError('ERR_SMOE_DTYPE_MISMATCH', `${name} must be f32, f16 or bf16, got ${value.dtype}`)
  }
  return value as Tensor<FloatDtype>
}

/** As checkFloatTensor, with the shape it must have; -1 stands for any size. */
export function checkShaped(name: string, value: unknown, shape: readonly number[]): Tensor<FloatDtype> {
  const tensor = checkFloatTensor(name, value)
  if (
    tensor.shape.length !== shape.length ||
    shape.some((size, i) => size !== -1 && size !== tensor.shape[i])
  ) {
    const expected = shapeText(shape).replaceAll('-1', 'any')
    throw new SmoeError(
      'ERR_SMOE_SHAPE_MISMATCH',
      `${name} must have shape ${expected}, got ${shapeText(tensor.shape)}`,
    )
  }
  return tensor
}

function checkShape(shape: unknown): readonly number[] {
  if (!Array.isArray(shape)) throw typeError('shape', 'an array of sizes', shape)
  for (const size of shape as unknown[]) {
    if (typeof size !== 'number') throw typeError('shape', 'an array of numbers', shape)
    if (!Number.isSafeInteger(size) || size < 0) throw rangeError('shape', 'non-negative integers', shape)
  }
  if (shapeProduct(shape as number[]) === undefined) {
    throw rangeError('shape', 'sizes whose product a double counts exactly', shape)
  }
  return Object.freeze([...(shape as number[])])
}

function checkLength(data: ArrayLike<number>, shape: readonly number[]): void {
  const expected = shapeProduct(shape)
  if (data.length === expected) return
  const { buffer } = data as { buffer?: ArrayBuffer }
  if (data.length === 0 && buffer?.byteLength === 0 && isDetached(buffer)) throw detached('data')
  throw new SmoeError(
    'ERR_SMOE_SHAPE_MISMATCH',
    `data must have ${expected} elements for shape ${shapeText(shape)}, got ${data.length}`,
  )
}

/** Only a detached buffer refuses to be sliced; ArrayBuffer.prototype.detached needs node 22. */
function isDetached(buffer: ArrayBuffer): boolean {
  try {
    buffer.slice(0, 0)
    return false
  } catch {
    return true
  }
}

function detached(name: string): SmoeError {
  return new SmoeError(
    'ERR_SMOE_DETACHED_BUFFER',
    `${name} lies over an ArrayBuffer that was transferred away (postMessage, structuredClone or transfer())`,
  )
}

function fromNumbers(data: readonly unknown[], shape: readonly number[], dtype: Dtype): TensorData {
  checkLength(data as ArrayLike<number>, shape)
  const whole = dtype === 'i32' || dtype === 'u8' || dtype === 'i8'
  const target = allocate(whole ? dtype : 'f32', data.length)
  for (let i = 0; i < data.length; i++) {
    const value = data[i]
    if (typeof value !== 'number') throw typeError(`data[${i}]`, 'a number', value)
    target[i] = value
    if (whole && target[i] !== value) throw rangeError(`data[${i}]`, `a value of dtype '${dtype}'`, value)
  }
  if (dtype !== 'f16' && dtype !== 'bf16') return target
  return guarded(() => native().fromF32(target as Float32Array, dtype))
}
