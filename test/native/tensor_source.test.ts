import fs from 'node:fs'
import path from 'node:path'
import type * as Binding from '../../binding'
import { temporaryFolder } from '../helpers/safetensors'
import { addon, codeOf, tensor } from './helpers'

const folder = temporaryFolder()
const file = (() => {
  const name = path.join(folder, 'codes')
  fs.writeFileSync(name, new Uint8Array(4096).fill(0x38)) // E4M3 1.0; as f32 4.4e-5
  return new addon.MappedFile(name)
})()

const hidden = 8
const router = { experts: 1, score: 'softmax', select: 'topK', k: 1 } as const

/** A layer of one plain expert whose up projection [4, 8] is the source in question. */
const create = (up: unknown) =>
  addon.MoeLayer.create(
    {
      hidden,
      activation: 'identity',
      router,
      routerWeight: tensor([1, hidden], 1).source,
      experts: [{ up: up as Binding.TensorSource, down: tensor([hidden, 4], 2).source }],
    },
    'exact',
  )

const coded = (changes: object = {}, scales: object = {}) => ({
  file,
  offset: 0,
  dtype: 'f8_e4m3',
  shape: [4, hidden],
  stored: [4, hidden],
  scales: { file, offset: 64, dtype: 'f32', shape: [1, 1], block: [128, 128], ...scales },
  ...changes,
})
const mxfp4 = (changes: object = {}, scales: object = {}) =>
  coded({ dtype: 'mxfp4', ...changes }, { dtype: 'e8m0', shape: [4, 1], block: [1, 32], ...scales })

test('views of plain data and codes are taken as described', async () => {
  const stored = Float32Array.from({ length: 75 }, (_, i) => i)
  const run = async (source: unknown) => {
    const layer = await create(source)
    const x = new Float32Array(hidden).fill(1)
    const out = await layer.forward(x, 'f32', 1, undefined)
    layer.dispose()
    return out
  }
  const rows = [0, 1, 2, 3].flatMap((r) => Array.from({ length: hidden }, (_, c) => 5 + r * 2 + c * 9))
  expect(
    await run({ data: stored, dtype: 'f32', shape: [4, hidden], view: { first: 5, strides: [2, 9] } }),
  ).toEqual(await run({ data: Float32Array.from(rows), dtype: 'f32', shape: [4, hidden] }))
  const one = Math.fround(new Float32Array(new Uint32Array([0x38383838]).buffer)[0]!)
  expect(await run(coded())).toEqual(
    await run({ data: new Float32Array(32).fill(one), dtype: 'f32', shape: [4, hidden] }),
  )
})

const view = (first: number, strides: unknown) => ({ view: { first, strides } })
const big = 2 ** 40

test.each([
  ['view past the data', { data: new Float32Array(32), dtype: 'f32', shape: [4, 8], ...view(1, [8, 1]) }],
  ['view past the file', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(1000, [8, 1]) }],
  ['view past what numbers hold', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(big, [big, big]) }],
  ['stride 0', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(0, [0, 1]) }],
  ['negative stride', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(0, [-8, 1]) }],
  ['negative start', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(-1, [8, 1]) }],
  ['one stride', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(0, [8]) }],
  ['strides of text', { file, offset: 0, dtype: 'f32', shape: [4, 8], ...view(0, '88') }],
  ['codes past the file', coded({ offset: 4090 })],
  ['codes from memory', coded({ file: undefined, data: new Uint8Array(32) })],
  ['view past the stored matrix', coded(view(1, [8, 1]))],
  ['stored matrix too small', coded({ stored: [3, 8] })],
  ['stored matrix of nothing', coded({ stored: [0, 8] })],
  ['stored matrix without end', coded({ stored: [big, big] })],
  ['stored matrix of one size', coded({ stored: [32] })],
  ['no stored matrix', coded({ stored: undefined })],
  ['no scales', coded({ scales: undefined })],
  ['scales past the file', coded({}, { offset: 4095 })],
  ['scales of another shape', coded({}, { shape: [1, 2] })],
  ['scales in one dimension', coded({}, { shape: [1] })],
  ['scales as integers', coded({}, { dtype: 'i32' })],
  ['empty blocks', coded({}, { block: [0, 128] })],
  ['blocks of one size', coded({}, { block: [128] })],
  ['MXFP4 rows of an odd length', mxfp4({ stored: [5, 7] }, { shape: [5, 1] })],
  ['MXFP4 past the file', mxfp4({ offset: 4088 })],
  ['a coding nobody knows', coded({ dtype: 'f8_e5m2' })],
])('%s is refused', async (_, source) => {
  expect(await codeOf(() => create(source))).toMatch(
    /^ERR_SMOE_(INVALID_ARGUMENT|INVALID_TYPE|SHAPE_MISMATCH)$/,
  )
})

test('vectors are never coded, scales of a closed file not read', async () => {
  const bias = { ...coded(), shape: [4], stored: [1, 4] }
  const plain = { file, offset: 0, dtype: 'f32', shape: [4, hidden] } satisfies Binding.TensorSource
  const call = () =>
    addon.MoeLayer.create(
      {
        hidden,
        activation: 'silu',
        router,
        routerWeight: tensor([1, hidden], 1).source,
        experts: [{ up: plain, down: tensor([hidden, 4], 2).source, upBias: bias as Binding.TensorSource }],
      },
      'exact',
    )
  expect(await codeOf(call)).toBe('ERR_SMOE_DTYPE_MISMATCH')
  const name = path.join(folder, 'closed')
  fs.writeFileSync(name, new Uint8Array(64))
  const closed = new addon.MappedFile(name)
  closed.close()
  expect(await codeOf(() => create(coded({}, { file: closed, offset: 0 })))).toBe('ERR_SMOE_DISPOSED')
  const zeros = path.join(folder, 'zeros')
  fs.writeFileSync(zeros, new Uint8Array(64))
  const source = coded({}, { file: new addon.MappedFile(zeros), offset: 0 })
  expect(await codeOf(() => create(source))).toBe('ERR_SMOE_INVALID_QUANTIZATION')
})
