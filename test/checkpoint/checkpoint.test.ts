import fs from 'node:fs'
import path from 'node:path'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { expectFailure } from '../helpers/errors'
import { safetensors, temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const f32 = (begin: number, end: number) => ({
  dtype: 'F32',
  shape: [(end - begin) / 4],
  data_offsets: [begin, end],
})
let count = 0

function makeDir(files: Record<string, string | Uint8Array>): string {
  const dir = path.join(folder, String(count++))
  fs.mkdirSync(dir)
  for (const [name, contents] of Object.entries(files)) fs.writeFileSync(path.join(dir, name), contents)
  return dir
}

const shardA = safetensors({ a: f32(0, 8) }, new Uint8Array(8))
const shardB = safetensors({ b: f32(0, 4), extra: f32(4, 8) }, new Uint8Array(8))
const index = (map: unknown) => ({ 'model.safetensors.index.json': JSON.stringify({ weight_map: map }) })

test('a sharded checkpoint is one list of tensors', () => {
  const dir = makeDir({
    ...index({ a: '1.safetensors', b: '2.safetensors' }),
    '1.safetensors': shardA,
    '2.safetensors': shardB,
  })
  const checkpoint = Checkpoint.openHeaders(dir)
  expect([...checkpoint.tensors.keys()].sort()).toEqual(['a', 'b'])
  expect(checkpoint.entry('b', [1]).file).toBe('2.safetensors')
  expect(checkpoint.unused()).toEqual(['a'])
  checkpoint.close()
})

test.each([
  ['../1.safetensors'],
  ['/etc/passwd.safetensors'],
  ['..\\1.safetensors'],
  ['C:1.safetensors'],
  ['sub/1.safetensors'],
  ['..'],
  ['1.bin'],
  ['a\0.safetensors'],
  [''],
])('the index may not name %j', async (name) => {
  const dir = makeDir(index({ a: name }))
  await expectFailure(() => Checkpoint.openHeaders(dir), 'ERR_SMOE_INVALID_SAFETENSORS', /plain name/)
})

test.each([[null], [[]], ['x'], [undefined]])('weight_map %j is refused', async (map) => {
  const dir = makeDir(index(map))
  await expectFailure(
    () => Checkpoint.openHeaders(dir),
    'ERR_SMOE_INVALID_SAFETENSORS',
    /weight_map must be an object/,
  )
})

test('files that are not there', async () => {
  const none = path.join(folder, 'nothing')
  await expectFailure(() => Checkpoint.openHeaders(none), 'ERR_SMOE_FILE_NOT_FOUND', /nothing does not exist/)
  await expectFailure(
    () => Checkpoint.openHeaders(makeDir({})),
    'ERR_SMOE_FILE_NOT_FOUND',
    /has neither model.safetensors/,
  )
  const dir = makeDir(index({ a: 'gone.safetensors' }))
  await expectFailure(
    () => Checkpoint.openHeaders(dir),
    'ERR_SMOE_FILE_NOT_FOUND',
    /gone.safetensors does not exist/,
  )
})

test('a folder in place of a file', async () => {
  const dir = makeDir({})
  fs.mkdirSync(path.join(dir, 'model.safetensors'))
  await expectFailure(() => Checkpoint.openHeaders(dir), 'ERR_SMOE_FILE_READ', /not a regular file/)
})

test('a tensor that the index promises and the shard lacks', async () => {
  const dir = makeDir({ ...index({ a: '1.safetensors', c: '1.safetensors' }), '1.safetensors': shardA })
  await expectFailure(
    () => Checkpoint.openHeaders(dir),
    'ERR_SMOE_MISSING_TENSOR',
    /'c' is missing from .*1\.safetensors/,
  )
})

test('an index that is not JSON', async () => {
  const dir = makeDir({ 'model.safetensors.index.json': '{' })
  await expectFailure(
    () => Checkpoint.openHeaders(dir),
    'ERR_SMOE_INVALID_SAFETENSORS',
    /index.json is not JSON/,
  )
})

test('entry() names what is missing, misshapen or of a foreign dtype', async () => {
  const file = safetensors(
    { a: f32(0, 8), q: { dtype: 'I8', shape: [8], data_offsets: [8, 16] } },
    new Uint8Array(16),
  )
  const checkpoint = Checkpoint.openHeaders(makeDir({ 'model.safetensors': file }))
  await expectFailure(
    () => checkpoint.entry('z', [1]),
    'ERR_SMOE_MISSING_TENSOR',
    /'z' is missing from .*model\.safetensors/,
  )
  await expectFailure(
    () => checkpoint.entry('a', [3]),
    'ERR_SMOE_SHAPE_MISMATCH',
    /'a' .* shape \[3\] .*, got \[2\]/,
  )
  await expectFailure(
    () => checkpoint.entry('q', [8]),
    'ERR_SMOE_DTYPE_MISMATCH',
    /'q' .* must be F32, F16 or BF16, got I8/,
  )
  checkpoint.close()
})
