import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { quantizeCheckpoint } from '../../lib'
import { OutputFolder } from '../../lib/prepare/output_folder'
import { expectFailure } from '../helpers/errors'
import { hf } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const model = hf('qwen3_moe')

// Work begins with the first progress: a place that cannot be written must be refused before.
const untouched = {
  onProgress: () => {
    throw new Error('work was done')
  },
}

test('an empty name is no folder', async () => {
  await expect(quantizeCheckpoint(model, '', untouched)).rejects.toThrow(RangeError)
  await expectFailure(() => quantizeCheckpoint(model, '', untouched), 'ERR_SMOE_INVALID_ARGUMENT', /outDir/)
})

test('what is there is refused, also a link that leads nowhere', async () => {
  const link = path.join(folder, 'link')
  fs.symlinkSync('nowhere', link)
  const call = () => quantizeCheckpoint(model, link, untouched)
  await expectFailure(call, 'ERR_SMOE_FILE_WRITE', /exists already/)
  expect(fs.readlinkSync(link)).toBe('nowhere')
})

test('below a file nothing can be made, and the error says so', async () => {
  const file = path.join(folder, 'file')
  fs.writeFileSync(file, 'kept')
  for (const below of [path.join(file, 'x'), path.join(file, 'x', 'y')]) {
    const call = () => quantizeCheckpoint(model, below, untouched)
    await expectFailure(call, 'ERR_SMOE_FILE_WRITE', /ENOTDIR/)
  }
  expect(fs.readFileSync(file, 'utf8')).toBe('kept')
})

// In a process of its own, which can be killed: this was an endless loop within one system call of Node.
test('a file system that takes no folders is refused at once', () => {
  if (!fs.existsSync('/proc/self')) return
  const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')
  for (const out of ['/proc/x', '/proc/x/y']) {
    const { status, stderr } = spawnSync(process.execPath, [main, 'quantize', model, '--out', out], {
      timeout: 20_000,
      killSignal: 'SIGKILL',
      encoding: 'utf8',
    })
    expect({ out, status }).toEqual({ out, status: 1 })
    expect(stderr).toMatch(/cannot make \/proc\/x.*ERR_SMOE_FILE_WRITE/)
  }
})

test('missing folders above are made, and go again when the call fails', async () => {
  const out = path.join(folder, 'a', 'b', 'out')
  const reason = new Error('enough')
  const controller = new AbortController()
  const options = { signal: controller.signal, onProgress: () => controller.abort(reason) }
  await expect(quantizeCheckpoint(model, out, options)).rejects.toBe(reason)
  expect(fs.existsSync(path.join(folder, 'a'))).toBe(false)
  await quantizeCheckpoint(model, out)
  expect(fs.readdirSync(path.dirname(out))).toEqual(['out'])
})

test('folders above that others use by then stay', () => {
  const first = new OutputFolder(path.join(folder, 'c', 'first'))
  const second = new OutputFolder(path.join(folder, 'c', 'second'))
  first.discard()
  second.finish()
  expect(fs.readdirSync(path.join(folder, 'c'))).toEqual(['second'])
})

test('tidying up never hides what went wrong', async () => {
  const remove = jest.spyOn(fs, 'rmSync').mockImplementation(() => {
    throw new Error('cannot tidy up')
  })
  const reason = new Error('enough')
  const controller = new AbortController()
  const options = { signal: controller.signal, onProgress: () => controller.abort(reason) }
  try {
    await expect(quantizeCheckpoint(model, path.join(folder, 'd'), options)).rejects.toBe(reason)
    expect(remove).toHaveBeenCalled()
  } finally {
    remove.mockRestore()
  }
})
