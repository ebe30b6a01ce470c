import path from 'node:path'
import { MoeModel } from '../../lib'
import type { TensorToWrite } from '../../lib/checkpoint/write_safetensors'
import { failure } from '../helpers/errors'
import { compressed, kinds, victim, writeQuantized } from '../helpers/quantized_checkpoint'
import { temporaryFolder } from '../helpers/safetensors'

// Every reader of foreign quantized weights against every way in which one matrix can be damaged. Nothing may load, and
// the error must carry a code of its own and say which weight it is about.

const folder = temporaryFolder()
let count = 0

/** Where a kind keeps its codes, scales and zero points. */
const places: Record<string, { codes: string; scales: string; zeros?: string; extra?: string }> = {
  gptq: { codes: 'qweight', scales: 'scales', zeros: 'qzeros' },
  awq: { codes: 'qweight', scales: 'scales', zeros: 'qzeros' },
  'pack-quantized': { codes: 'weight_packed', scales: 'weight_scale' },
  'pack-quantized, asymmetric': {
    codes: 'weight_packed',
    scales: 'weight_scale',
    zeros: 'weight_zero_point',
  },
  'int-quantized': { codes: 'weight', scales: 'weight_scale' },
  'float-quantized': { codes: 'weight', scales: 'weight_scale' },
  fp8: { codes: 'weight', scales: 'weight_scale_inv' },
  nvfp4: { codes: 'weight_packed', scales: 'weight_scale', extra: 'weight_global_scale' },
  mxfp4: { codes: 'weight_packed', scales: 'weight_scale' },
  bitnet: { codes: 'weight', scales: 'weight_scale' },
}

const bytesOf = ({ data }: TensorToWrite) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** The bytes of one element: no number, or zero; undefined where the dtype has none. */
const special: Record<string, Record<'NaN' | 'zero', number[] | undefined>> = {
  F32: { NaN: [0, 0, 0xc0, 0x7f], zero: [0, 0, 0, 0] },
  F16: { NaN: [0, 0x7e], zero: [0, 0] },
  BF16: { NaN: [0xc0, 0x7f], zero: [0, 0] },
  F8_E4M3: { NaN: [0x7f], zero: [0] },
  U8: { NaN: [255], zero: undefined }, // E8M0 has no zero
}

function setFirst(tensor: TensorToWrite, value: 'NaN' | 'zero'): boolean {
  const bytes = special[tensor.dtype]![value]
  if (bytes !== undefined) bytesOf(tensor).set(bytes)
  return bytes !== undefined
}

/** The tensor without its last row or element, and the bytes to match. */
function shorter(tensor: TensorToWrite): TensorToWrite {
  const [rows, ...rest] = tensor.shape as [number, ...number[]]
  const bytes = bytesOf(tensor)
  if (rows > 1)
    return {
      ...tensor,
      shape: [rows - 1, ...rest],
      data: bytes.slice(0, (bytes.length / rows) * (rows - 1)),
    }
  return {
    ...tensor,
    shape: [...tensor.shape, 2],
    data: Uint8Array.from({ length: 2 * bytes.length }, () => 60),
  }
}

type Damage = (tensors: Record<string, TensorToWrite>, place: (typeof places)[string]) => boolean

const damages: Record<string, Damage> = {
  'no codes': (t, { codes }) => delete t[victim + codes],
  'no scales': (t, { scales }) => delete t[victim + scales],
  'codes one row short': (t, { codes }) => {
    t[victim + codes] = shorter(t[victim + codes]!)
    return true
  },
  'scales of another shape': (t, { scales }) => {
    t[victim + scales] = shorter(t[victim + scales]!)
    return true
  },
  'codes of another dtype': (t, { codes }) => {
    const tensor = t[victim + codes]!
    t[victim + codes] = {
      ...tensor,
      dtype: tensor.dtype === 'I32' ? 'F32' : tensor.dtype === 'I8' ? 'U8' : 'I8',
    }
    return true
  },
  'scales of integers': (t, { scales }) => {
    const tensor = t[victim + scales]!
    const elements = tensor.shape.reduce((product, size) => product * size, 1)
    t[victim + scales] = { dtype: 'I32', shape: tensor.shape, data: new Int32Array(elements).fill(1) }
    return true
  },
  'a scale that is no number': (t, { scales }) => setFirst(t[victim + scales]!, 'NaN'),
  'a scale of zero': (t, { scales }) => setFirst(t[victim + scales]!, 'zero'),
  'zero points of another shape': (t, { zeros }) => {
    if (zeros === undefined) return false
    t[victim + zeros] = shorter(t[victim + zeros]!)
    return true
  },
  'no zero points': (t, { codes, zeros }) =>
    codes === 'qweight' && zeros !== undefined && delete t[victim + zeros],
  'a global scale that is no number': (t, { extra }) =>
    extra !== undefined && setFirst(t[victim + extra]!, 'NaN'),
  'a global scale of zero': (t, { extra }) => extra !== undefined && setFirst(t[victim + extra]!, 'zero'),
  'no global scale': (t, { extra }) => extra !== undefined && delete t[victim + extra],
}

const codes = ['INVALID_QUANTIZATION', 'SHAPE_MISMATCH', 'DTYPE_MISMATCH', 'MISSING_TENSOR'].map(
  (code) => `ERR_SMOE_${code}`,
)

test('every kind is covered', () => expect(Object.keys(places).sort()).toEqual(Object.keys(kinds).sort()))

describe.each(Object.keys(kinds))('%s', (kind) => {
  test.each(Object.keys(damages))('%s: refused', async (name) => {
    let applies = false
    const dir = await writeQuantized(path.join(folder, String(count++)), kind, false, (tensors) => {
      applies = damages[name]!(tensors, places[kind]!)
    })
    if (!applies) {
      using model = await MoeModel.load(dir) // what has no such part is undamaged
      expect(model).toBeDefined()
      return
    }
    const error = await failure(() => MoeModel.load(dir))
    expect(codes).toContain(error.code)
    expect(error.message).toMatch(
      /layers\.1\.mlp\.experts\.3\.up_proj|layers\[1\].*experts\[3\]|experts\[3\]\.up/,
    )
  })
})

test.each(['gptq', 'awq', 'pack-quantized'])('%s: groups that do not divide the columns', async (kind) => {
  const config = kinds[kind]!.config as { config_groups?: object }
  const changed =
    config.config_groups === undefined
      ? { ...config, group_size: 48 }
      : compressed('pack-quantized', { num_bits: 4, group_size: 48, strategy: 'group' })
  const dir = await writeQuantized(path.join(folder, String(count++)), kind, false, undefined, changed)
  const error = await failure(() => MoeModel.load(dir))
  expect(error).toMatchObject({ code: 'ERR_SMOE_INVALID_QUANTIZATION' })
  expect(error.message).toMatch(/groups of 48 do not divide 64 columns/)
})

test.each([
  ['gptq', { bits: 5 }, /5 bits per weight are not supported/],
  ['gptq', { bits: 8 }, /cannot hold|qweight must be/],
  ['awq', { bits: 3 }, /AWQ has 4 bits/],
])('%s with %j: refused', async (kind, change, message) => {
  const config = { ...kinds[kind]!.config, ...change }
  const dir = await writeQuantized(path.join(folder, String(count++)), kind, false, undefined, config)
  const error = await failure(() => MoeModel.load(dir))
  expect(codes).toContain(error.code)
  expect(error.message).toMatch(message)
})
