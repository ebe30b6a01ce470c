import type { NativeQuantizedParts } from '../../binding'
import { native } from '../../lib/native'
import { expectFailure } from '../helpers/errors'

const parts = (): NativeQuantizedParts => ({
  format: 'w4',
  rows: 2,
  cols: 16,
  group: 8,
  mul: 1,
  codes: Uint8Array.from({ length: 16 }, (_, i) => i * 16 + (15 - i)),
  scales: Float32Array.of(1, 2, 0.5, 4),
})

test('from() copies before it returns, and gives the parts back', async () => {
  const given = parts()
  const expected = parts()
  const promise = native().QuantizedMatrix.from(given)
  given.codes.fill(0)
  given.scales.fill(NaN)
  const matrix = await promise
  const { codes, scales, planes } = await matrix.parts()
  expect({ codes, scales, planes }).toEqual({ codes: expected.codes, scales: expected.scales, planes: [] })
  expect([...matrix.dequantize().subarray(0, 4)]).toEqual([15 - 8, 0 - 8, 14 - 8, 1 - 8])
  matrix.dispose()
})

test.each<[string, Partial<NativeQuantizedParts>, string, RegExp]>([
  ['codes too short', { codes: new Uint8Array(15) }, 'SHAPE_MISMATCH', /codes/],
  ['scales too many', { scales: new Float32Array(5) }, 'SHAPE_MISMATCH', /scales/],
  ['scales of zero', { scales: new Float32Array(4) }, 'INVALID_QUANTIZATION', /scale 0 is 0/],
  [
    'a group that does not divide',
    { group: 7, scales: new Float32Array(6).fill(1) },
    'INVALID_QUANTIZATION',
    /7 does not divide/,
  ],
  ['a foreign codebook', { codebook: 1 }, 'INVALID_QUANTIZATION', /codebook 1/],
  ['codes of doubles', { codes: new Float64Array(16) as never }, 'INVALID_TYPE', /codes/],
  [
    'a plane too short',
    { planes: [{ codes: new Uint8Array(3), scales: new Float32Array(4) }] },
    'SHAPE_MISMATCH',
    /codes/,
  ],
  [
    'planes of another format',
    { planes: [{ codes: new Uint8Array(4), scales: new Float32Array(4) }] },
    'INVALID_QUANTIZATION',
    /no residual planes/,
  ],
])('from() rejects %s', async (_, change, code, message) => {
  await expectFailure(
    () => native().QuantizedMatrix.from({ ...parts(), ...change }),
    `ERR_SMOE_${code}`,
    message,
  )
})

test('parts() outlives dispose(), and does not begin once it is cancelled', async () => {
  const matrix = await native().QuantizedMatrix.from(parts())
  const cancel = new (native().CancelToken)()
  cancel.cancel()
  await expectFailure(() => matrix.parts(cancel), 'ERR_SMOE_CANCELLED', /cancelled/)
  const promise = matrix.parts()
  matrix.dispose()
  expect((await promise).codes).toEqual(parts().codes)
  await expectFailure(() => matrix.parts(), 'ERR_SMOE_DISPOSED', /disposed/)
})

test('from() does not begin once it is cancelled', async () => {
  const cancel = new (native().CancelToken)()
  cancel.cancel()
  await expectFailure(() => native().QuantizedMatrix.from(parts(), cancel), 'ERR_SMOE_CANCELLED', /cancelled/)
})

test('quantize() takes scales of columns and rows, and refuses others', async () => {
  const data = Float32Array.from({ length: 32 }, (_, i) => Math.sin(i))
  const source = { data, dtype: 'f32' as const, shape: [2, 16] }
  const options = { format: 'w8' as const, method: 'rtn' as const, group: 16 }
  const inputScale = Float32Array.from({ length: 16 }, (_, i) => 2 ** (i % 3))
  const rowScale = Float32Array.of(1, 0.5)
  const scaled = await native().QuantizedMatrix.quantize(source, { ...options, inputScale, rowScale })
  const values = data.map((value, i) => value * inputScale[i % 16]! * rowScale[Math.floor(i / 16)]!)
  const plain = await native().QuantizedMatrix.quantize({ ...source, data: values }, options)
  expect(await scaled.parts()).toEqual(await plain.parts())
  await expectFailure(
    () => native().QuantizedMatrix.quantize(source, { ...options, inputScale: rowScale }),
    'ERR_SMOE_SHAPE_MISMATCH',
    /inputScale/,
  )
})
