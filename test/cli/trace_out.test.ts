import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { temporaryFolder } from '../helpers/safetensors'
import { runCli, sampleModel } from './run_cli'

// `smoe trace --out` puts a file in place by a rename, which would replace whatever is there.

const folder = temporaryFolder()
const at = (name: string) => path.join(folder, name)
const trace = (out: string, ...more: string[]) =>
  runCli(['trace', sampleModel, '--prompt-ids', '1,2', '--out', out, ...more])

test('a file that is there stays, and --force replaces it', async () => {
  const file = at('model.safetensors')
  fs.writeFileSync(file, 'weights')
  const { code, stdout, stderr } = await trace(file)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(/exists already; --force replaces it/)
  expect(fs.readFileSync(file, 'utf8')).toBe('weights')
  expect((await trace(file, '--force')).code).toBe(0)
  expect(fs.statSync(file).size).toBeGreaterThan(1000)
})

test('--force writes a new file too', async () => {
  expect((await trace(at('new'), '--force')).code).toBe(0)
  expect(fs.statSync(at('new')).isFile()).toBe(true)
})

test.each([
  ['a symbolic link', 'a symbolic link', (name: string) => fs.symlinkSync('target', name)],
  ['a link that leads nowhere', 'a symbolic link', (name: string) => fs.symlinkSync('nowhere', name)],
  ['a pipe', 'a named pipe', (name: string) => execFileSync('mkfifo', [name])],
  ['a folder', 'a folder', (name: string) => fs.mkdirSync(name)],
])('%s is never replaced', async (title, kind, make) => {
  fs.writeFileSync(at('target'), 'kept')
  const name = at(title)
  make(name)
  const before = fs.lstatSync(name)
  for (const more of [[], ['--force']]) {
    const { code, stdout, stderr } = await trace(name, ...more)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(`is ${kind}, which is never replaced`)
  }
  expect(fs.lstatSync(name)).toMatchObject({ ino: before.ino, mode: before.mode })
  expect(fs.readFileSync(at('target'), 'utf8')).toBe('kept')
})

test('names of no file are wrong usage', async () => {
  for (const name of ['', at('below/')]) {
    const { code, stderr } = await trace(name)
    expect(code).toBe(2)
    expect(stderr).toMatch(/--out must name a file/)
  }
})

test('folders that are not there or are none fail with a code, before the model is loaded', async () => {
  fs.writeFileSync(at('plain'), '')
  for (const name of [at('none/x'), at('plain/x')]) {
    const { code, stderr } = await runCli(['trace', 'no-model', '--prompt-ids', '1', '--out', name])
    expect(code).toBe(1)
    expect(stderr).toMatch(/cannot write .*ERR_SMOE_FILE_WRITE/)
  }
})
