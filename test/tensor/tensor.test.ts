import { Tensor } from '../../lib'
import { expectFailure, failure } from '../helpers/errors'

test('holds the given array, with its dtype', () => {
  const data = new Float32Array([1, 2, 3, 4, 5, 6])
  const tensor = Tensor.from(data, [2, 3])
  expect(tensor.data()).toBe(data)
  expect(tensor).toMatchObject({ shape: [2, 3], dtype: 'f32', device: 'cpu' })
  expect(tensor.toF32Array()).toBe(data)
  expect(tensor.to('cpu')).toBe(tensor)
  expect(tensor.to('auto')).toBe(tensor)
})

test('views with a byteOffset and subarrays are fine', () => {
  const buffer = new ArrayBuffer(32)
  const view = new Float32Array(buffer, 8, 4)
  view.set([1, 2, 3, 4])
  expect(Tensor.from(view.subarray(1, 3), [2]).data()).toEqual(new Float32Array([2, 3]))
})

test.each([
  [new Int32Array(2), 'i32'],
  [new Uint8Array(2), 'u8'],
  [new Int8Array(2), 'i8'],
  [new Float32Array(2), 'f32'],
] as const)('infers the dtype of %p', (data, dtype) => {
  expect(Tensor.from(data as Int32Array, [2]).dtype).toBe(dtype)
})

test('number[] is copied, and must fit the dtype', async () => {
  expect(Tensor.from([1, 2.5], [2]).data()).toEqual(new Float32Array([1, 2.5]))
  expect(Tensor.from([1, -1], [2], 'i32').data()).toEqual(new Int32Array([1, -1]))
  await expectFailure(
    () => Tensor.from([256], [1], 'u8'),
    'ERR_SMOE_INVALID_ARGUMENT',
    /data\[0\] .* 'u8', got 256/,
  )
  await expectFailure(() => Tensor.from([0.5], [1], 'i32'), 'ERR_SMOE_INVALID_ARGUMENT', /data\[0\]/)
  await expectFailure(
    () => Tensor.from(['1'] as never, [1]),
    'ERR_SMOE_INVALID_TYPE',
    /data\[0\] must be a number/,
  )
})

test('zeros', () => {
  expect(Tensor.zeros([2, 2], 'bf16').data()).toEqual(new Uint16Array(4))
  expect(Tensor.zeros([0, 5]).data()).toHaveLength(0)
})

test('integers as f32', () => {
  expect(Tensor.from(new Int8Array([-1, 2]), [2]).toF32Array()).toEqual(new Float32Array([-1, 2]))
})

const refusals: [string, () => unknown, string, RegExp][] = [
  [
    'a Float64Array',
    () => Tensor.from(new Float64Array(1) as never, [1]),
    'INVALID_TYPE',
    /data must be a Float32Array/,
  ],
  ['an ArrayBuffer', () => Tensor.from(new ArrayBuffer(4) as never, [1]), 'INVALID_TYPE', /data must be/],
  ['null', () => Tensor.from(null as never, [1]), 'INVALID_TYPE', /got null/],
  [
    'Uint16Array alone',
    () => Tensor.from(new Uint16Array(1), [1], undefined as never),
    'INVALID_TYPE',
    /'f16' or 'bf16'/,
  ],
  [
    'dtype of another array',
    () => Tensor.from(new Float32Array(1), [1], 'i32' as never),
    'DTYPE_MISMATCH',
    /Int32Array/,
  ],
  [
    'unknown dtype',
    () => Tensor.from(new Float32Array(1), [1], 'f64' as never),
    'INVALID_ARGUMENT',
    /dtype must be/,
  ],
  [
    'too few elements',
    () => Tensor.from(new Float32Array(5), [2, 3]),
    'SHAPE_MISMATCH',
    /6 elements .*, got 5/,
  ],
  [
    'no shape',
    () => Tensor.from(new Float32Array(1), undefined as never),
    'INVALID_TYPE',
    /shape must be an array/,
  ],
  ['text size', () => Tensor.from(new Float32Array(1), ['1'] as never), 'INVALID_TYPE', /shape/],
  ['negative sizes', () => Tensor.from(new Float32Array(1), [-1, -1]), 'INVALID_ARGUMENT', /got \[-1, -1\]/],
  ['fractional size', () => Tensor.from(new Float32Array(1), [0.5, 2]), 'INVALID_ARGUMENT', /shape/],
  [
    'a product that overflows',
    () => Tensor.from(new Float32Array(0), [2 ** 32, 2 ** 32]),
    'INVALID_ARGUMENT',
    /product/,
  ],
  ['cuda', () => Tensor.zeros([1]).to('cuda:0'), 'DEVICE_UNAVAILABLE', /tensors stay in host memory/],
  ['a device of fantasy', () => Tensor.zeros([1]).to('tpu' as never), 'INVALID_ARGUMENT', /got 'tpu'/],
]
test.each(refusals)('refuses %s', async (_, call, code, message) => {
  await expectFailure(call, `ERR_SMOE_${code}`, message)
})

test('wrong types are TypeErrors, wrong values RangeErrors', async () => {
  expect(await failure(() => Tensor.from(null as never, [1]))).toBeInstanceOf(TypeError)
  expect(await failure(() => Tensor.from([1], [-1]))).toBeInstanceOf(RangeError)
})

test('a transferred buffer is told apart from an empty one', async () => {
  const data = new Float32Array(4)
  const tensor = Tensor.from(data, [4])
  structuredClone(data.buffer, { transfer: [data.buffer] })
  await expectFailure(() => tensor.data(), 'ERR_SMOE_DETACHED_BUFFER', /transferred/)
  await expectFailure(() => Tensor.from(data, [4]), 'ERR_SMOE_DETACHED_BUFFER', /transferred/)
  await expectFailure(() => Tensor.from(new Float32Array(0), [4]), 'ERR_SMOE_SHAPE_MISMATCH', /got 0/)
})

test('dispose, also by using', async () => {
  let kept: Tensor
  {
    using tensor = Tensor.zeros([1])
    kept = tensor
  }
  await expectFailure(() => kept.data(), 'ERR_SMOE_DISPOSED', /tensor was used after dispose/)
  kept.dispose()
})
