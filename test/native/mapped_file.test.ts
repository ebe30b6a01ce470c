import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { addon, codeOf, expectClose, randomNumbers, rows, runMoe, tinyMoe, type Matrix } from './helpers'
import type { MappedFile, NativeExpert, TensorSource } from '../../binding'

let dir: string
beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-native-'))
})
afterAll(() => fs.rmSync(dir, { recursive: true }))

function write(name: string, bytes: Uint8Array): string {
  const file = path.join(dir, name)
  fs.writeFileSync(file, bytes)
  return file
}

describe('MappedFile', () => {
  test('reads ranges, refuses what lies outside', async () => {
    const bytes = Uint8Array.from({ length: 10_000 }, (_, i) => i * 7)
    const file = new addon.MappedFile(write('plain', bytes))
    expect(file.size).toBe(10_000)
    expect(file.read(0, 10_000)).toEqual(bytes)
    expect(file.read(9_990, 10)).toEqual(bytes.subarray(9_990))
    expect(file.read(10_000, 0)).toHaveLength(0)
    for (const [offset, length] of [
      [0, 10_001],
      [9_999, 2],
      [-1, 1],
      [10_001, 0],
      [0.5, 1],
      [2 ** 53, 1],
      [1, 2 ** 60],
      [NaN, 1],
    ] as const) {
      expect(await codeOf(() => file.read(offset, length))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    }
    file.close()
    file.close()
    expect(await codeOf(() => file.read(0, 1))).toBe('ERR_SMOE_DISPOSED')
    expect(await codeOf(() => file.size)).toBe('ERR_SMOE_DISPOSED')
  })

  test('empty files, missing files, folders', async () => {
    expect(new addon.MappedFile(write('empty', new Uint8Array(0))).size).toBe(0)
    expect(await codeOf(() => new addon.MappedFile(path.join(dir, 'nothing')))).toBe(
      'ERR_SMOE_FILE_NOT_FOUND',
    )
    expect(await codeOf(() => new addon.MappedFile(path.join(dir, 'empty', 'below')))).toBe(
      'ERR_SMOE_FILE_NOT_FOUND',
    )
    expect(await codeOf(() => new addon.MappedFile(dir))).toBe('ERR_SMOE_FILE_READ')
    expect(await codeOf(() => new addon.MappedFile('a\0b'))).toBe('ERR_SMOE_INVALID_ARGUMENT')
  })

  test('a file that shrank is noticed, by read() and by packing', async () => {
    const moe = tinyMoe()
    const name = write('shrinking', new Uint8Array(moe.router.data.buffer))
    const file = new addon.MappedFile(name)
    const routerWeight: TensorSource = { file, offset: 0, dtype: 'f32', shape: moe.router.shape }
    await addon.MoeLayer.create({ ...moe.desc, routerWeight }, 'exact')
    fs.truncateSync(name, 16)
    expect(await codeOf(() => file.read(0, 8))).toBe('ERR_SMOE_FILE_CHANGED')
    expect(await codeOf(() => addon.MoeLayer.create({ ...moe.desc, routerWeight }, 'exact'))).toBe(
      'ERR_SMOE_FILE_CHANGED',
    )
    expect(await codeOf(() => new addon.Router(moe.desc.router, routerWeight))).toBe('ERR_SMOE_FILE_CHANGED')
  })

  test('weights at odd offsets; close() while they are packed', async () => {
    const moe = tinyMoe()
    const parts: Uint8Array[] = [Uint8Array.of(1)]
    let end = 1
    const place = ({ data, shape }: Matrix) => {
      const offset = end
      parts.push(new Uint8Array(data.buffer))
      end += data.byteLength
      return (file: MappedFile): TensorSource => ({ file, offset, dtype: 'f32', shape })
    }
    const experts = moe.experts.map(({ gate, up, down }) => [place(gate), place(up), place(down)])
    const router = place(moe.router)
    const file = new addon.MappedFile(write('weights', Buffer.concat(parts)))
    const desc = {
      ...moe.desc,
      routerWeight: router(file),
      experts: experts.map(([gate, up, down]): NativeExpert => ({
        gate: gate!(file),
        up: up!(file),
        down: down!(file),
      })),
    }
    const creating = addon.MoeLayer.create(desc, 'exact')
    file.close()
    const layer = await creating
    const x = randomNumbers(2 * moe.hidden, 17)
    const expected = rows(x, moe.hidden).flatMap((row) => runMoe(moe, row))
    expectClose(await layer.forward(x, 'f32', 2, undefined), expected)
    expect(await codeOf(() => addon.MoeLayer.create(desc, 'exact'))).toBe('ERR_SMOE_DISPOSED')
  })

  test('slices are checked against the file', async () => {
    const moe = tinyMoe()
    const file = new addon.MappedFile(write('small', new Uint8Array(1000)))
    const [rowCount, cols] = moe.router.shape as [number, number]
    const create = (source: object) =>
      codeOf(() =>
        addon.MoeLayer.create({ ...moe.desc, routerWeight: { ...source } as TensorSource }, 'exact'),
      )
    const slice = { file, offset: 0, dtype: 'f32', shape: [rowCount, cols] }
    expect(await create({ ...slice, offset: 1000 - rowCount * cols * 4 + 1 })).toBe(
      'ERR_SMOE_INVALID_ARGUMENT',
    )
    for (const offset of [1001, -1, 2 ** 53, 0.5, NaN]) {
      expect(await create({ ...slice, offset })).toBe('ERR_SMOE_INVALID_ARGUMENT')
    }
    expect(await create({ ...slice, offset: '0' })).toBe('ERR_SMOE_INVALID_TYPE')
    expect(await create({ ...slice, shape: [rowCount, cols + 1] })).toBe('ERR_SMOE_SHAPE_MISMATCH')
    expect(await create({ ...slice, shape: [2 ** 40, 2 ** 40] })).toBe('ERR_SMOE_SHAPE_MISMATCH')
    expect(await create({ ...slice, shape: [rowCount * cols] })).toBe('ERR_SMOE_SHAPE_MISMATCH')
    expect(await create({ ...slice, dtype: 'i32' })).toBe('ERR_SMOE_INVALID_ARGUMENT')
    expect(await create({ ...slice, file: {} })).toBe('ERR_SMOE_INVALID_TYPE')
    expect(await create({ ...slice, file: new addon.CancelToken() })).toBe('ERR_SMOE_INVALID_TYPE')
  })
})
