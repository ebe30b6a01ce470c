import fs from 'node:fs'
import fsPromises from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { type TensorToWrite, writeSafetensors } from '../../lib/checkpoint/write_safetensors'

let dir: string
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-write-'))
})
afterEach(() => fs.rmSync(dir, { recursive: true }))

const tensors: Record<string, TensorToWrite> = {
  bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
  'a.b': { dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, -2, 3.5, 4) },
  scalar: { dtype: 'I32', shape: [], data: Int32Array.of(-7) },
  empty: { dtype: 'F32', shape: [0, 4], data: new Float32Array(0) },
  half: { dtype: 'BF16', shape: [1, 3], data: Uint16Array.of(0x3f80, 0, 0xbf80) },
}

test('the package reads back what it wrote, every tensor aligned to its element', async () => {
  const file = path.join(dir, 'out.safetensors')
  await writeSafetensors(file, tensors, { metadata: { producer: 'test' } })
  const source = new FileSource(file)
  const { tensors: entries, metadata } = readSafetensorsHeader(source, file)
  expect([...metadata]).toEqual([['producer', 'test']])
  expect([...entries.keys()].sort()).toEqual(Object.keys(tensors).sort())
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const entry = entries.get(name)!
    expect(entry).toMatchObject({ dtype, shape })
    const width = shape.length === 0 || entry.bytes === 0 ? 1 : entry.bytes / shape.reduce((a, b) => a * b, 1)
    expect(entry.offset % width).toBe(0)
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    expect(Buffer.from(source.read(entry.offset, entry.bytes)).equals(bytes)).toBe(true)
  }
  source.close()
  expect(fs.readdirSync(dir)).toEqual(['out.safetensors'])
})

test('a wrong size is refused before anything is written', async () => {
  const wrong: TensorToWrite = { dtype: 'F32', shape: [2, 3], data: new Float32Array(5) }
  const write = writeSafetensors(path.join(dir, 'x.safetensors'), { wrong })
  await expect(write).rejects.toMatchObject({ code: 'ERR_SMOE_SHAPE_MISMATCH' })
  expect(fs.readdirSync(dir)).toEqual([])
})

test('an aborted write leaves neither the file nor a temporary one, and an old file as it was', async () => {
  const file = path.join(dir, 'x.safetensors')
  fs.writeFileSync(file, 'old')
  const reason = new Error('enough')
  const write = writeSafetensors(file, tensors, { signal: AbortSignal.abort(reason) })
  await expect(write).rejects.toBe(reason)
  expect(fs.readdirSync(dir)).toEqual(['x.safetensors'])
  expect(fs.readFileSync(file, 'utf8')).toBe('old')
})

test('a folder that is not there gives ERR_SMOE_FILE_WRITE with the path', async () => {
  const file = path.join(dir, 'none', 'x.safetensors')
  await expect(writeSafetensors(file, tensors)).rejects.toMatchObject({
    code: 'ERR_SMOE_FILE_WRITE',
    message: expect.stringContaining(file),
  })
})

test('a folder that is a file gives ERR_SMOE_FILE_WRITE too, not the error of tidying up', async () => {
  const file = path.join(dir, 'file')
  fs.writeFileSync(file, '')
  await expect(writeSafetensors(path.join(file, 'x.safetensors'), tensors)).rejects.toMatchObject({
    code: 'ERR_SMOE_FILE_WRITE',
    message: expect.stringContaining('open'),
  })
})

describe('with replace: false', () => {
  afterEach(() => jest.restoreAllMocks())
  const noLinks = () =>
    jest.spyOn(fsPromises, 'link').mockRejectedValue(Object.assign(new Error('no links'), { code: 'EPERM' }))

  test.each([
    ['a file system with hard links', () => undefined],
    ['one without', noLinks],
  ])('a new file is written, one that is there stays: %s', async (_, prepare) => {
    prepare()
    const file = path.join(dir, 'x.safetensors')
    await writeSafetensors(file, tensors, { replace: false })
    expect(fs.readdirSync(dir)).toEqual(['x.safetensors'])
    fs.writeFileSync(file, 'old')
    const link = path.join(dir, 'y.safetensors')
    fs.symlinkSync('nowhere', link)
    for (const there of [file, link]) {
      const write = writeSafetensors(there, tensors, { replace: false })
      await expect(write).rejects.toMatchObject({ code: 'ERR_SMOE_FILE_WRITE' })
    }
    expect(fs.readdirSync(dir).sort()).toEqual(['x.safetensors', 'y.safetensors'])
    expect(fs.readFileSync(file, 'utf8')).toBe('old')
    expect(fs.readlinkSync(link)).toBe('nowhere')
  })
})
