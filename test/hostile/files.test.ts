import { execFile, execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { inspect, MoeModel } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { Tokenizer } from '../../lib/model/tokenizer'
import { failure, expectFailure } from '../helpers/errors'
import { momentumModel } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

// A checkpoint's folder is its maker's: what its names stand for need be neither files nor the maker's own.

const folder = temporaryFolder()
let count = 0
const posix = process.platform === 'win32' ? test.skip : test
const each = process.platform === 'win32' ? test.skip.each : test.each

/** The sample model by links, `name` left to the test. */
function linked(name: string): { dir: string; file: string } {
  const dir = path.join(folder, String(count++))
  fs.mkdirSync(dir)
  for (const own of fs.readdirSync(momentumModel)) {
    if (own !== name) fs.symlinkSync(path.join(momentumModel, own), path.join(dir, own))
  }
  return { dir, file: path.join(dir, name) }
}

const hook = path.join(__dirname, '..', 'helpers', 'typescript_hook.cjs')
const lib = path.join(__dirname, '..', '..', 'lib', 'index.ts')

/** The code that a call ends with, in a process of its own: one that waits for ever is killed. */
async function codeOfCall(body: string): Promise<string> {
  const script = `
    const { MoeModel, inspect, quantizeCheckpoint } = require(${JSON.stringify(lib)})
    ;(async () => { ${body} })().then(() => console.log('done'), (error) => console.log(error.code))`
  const { stdout } = await promisify(execFile)(process.execPath, ['-r', hook, '-e', script], {
    timeout: 30_000,
  })
  return stdout.trim()
}

const inspected = (dir: string) => `inspect(${JSON.stringify(dir)})`
const encoded = (dir: string) =>
  `const model = await MoeModel.load(${JSON.stringify(dir)}); await model.encode('a')`
const copied = (dir: string) =>
  `await quantizeCheckpoint(${JSON.stringify(dir)}, ${JSON.stringify(`${dir}-out`)}, { format: 't2' })`

each([
  ['config.json', inspected],
  ['generation_config.json', inspected],
  ['model.safetensors', inspected],
  ['model.safetensors', encoded],
  ['tokenizer.json', encoded],
  ['tokenizer_config.json', encoded],
  ['NOTICE', copied],
])('a named pipe in place of %s is refused, not waited for', async (name, call) => {
  const { dir, file } = linked(name)
  execFileSync('mkfifo', [file])
  expect(await codeOfCall(call(dir))).toBe('ERR_SMOE_FILE_READ')
})

posix('a named pipe in place of the index', async () => {
  const { dir } = linked('model.safetensors')
  execFileSync('mkfifo', [path.join(dir, 'model.safetensors.index.json')])
  expect(await codeOfCall(inspected(dir))).toBe('ERR_SMOE_FILE_READ')
})

posix('a link to a device is no file either', async () => {
  const { dir, file } = linked('config.json')
  fs.symlinkSync('/dev/zero', file)
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_FILE_READ', /not a regular file/)
})

posix('links are followed, as the caches of Hugging Face have them', async () => {
  const { dir, file } = linked('config.json')
  fs.symlinkSync(path.join(momentumModel, 'config.json'), file)
  expect(inspect(dir).modelType).toBe('qwen3_moe')
  using model = await MoeModel.load(dir)
  expect((await model.encode('a')).length).toBeGreaterThan(0)
})

const readers: [string, (dir: string) => unknown][] = [
  ['config.json', readArchitecture],
  ['generation_config.json', readArchitecture],
  ['tokenizer.json', (dir) => Tokenizer.open(dir)],
  ['tokenizer_config.json', (dir) => Tokenizer.open(dir)],
  ['model.safetensors', inspect],
  ['model.safetensors.index.json', inspect],
]
const secrets = [
  'hunter2:*:20250:0:99999:7:::\n',
  '{"hunter2": hunter2}',
  '["hunter2" in JSON at position 31337',
  '"hunter2',
  'hunter2',
  '"hunter2"',
  '31337',
  '[31337, 31337]',
  '\u00ff31337',
]

/** What a log shows of an error. */
const shown = (error: Error): string => `${error.message}\n${String(error.cause)}`

describe.each(readers)('%s that links to a file of something else', (name, read) => {
  each(secrets.map((text) => [text]))('%j stays unquoted', async (text) => {
    const { dir, file } = linked(name)
    if (name.endsWith('.index.json')) fs.rmSync(path.join(dir, 'model.safetensors'))
    const secret = path.join(folder, `secret-${count}`)
    fs.writeFileSync(secret, Buffer.from(text, 'latin1'))
    fs.symlinkSync(secret, file)
    // Valid JSON of another kind may be taken for an empty tokenizer_config.json: then there is no message at all.
    const error = await failure(() => {
      read(dir)
      throw new Error('taken')
    })
    expect(shown(error)).not.toMatch(/unter|31337/)
    if (error.message !== 'taken') {
      expect(error).toHaveProperty('code', expect.stringMatching(/^ERR_SMOE_/))
      expect(error.message).toContain(dir)
    }
  })
})

test('JSON that does not parse: what is known of the place', async () => {
  const { dir, file } = linked('config.json')
  const cases: [string, RegExp][] = [
    ['{"a": 1', /is not JSON: its syntax is wrong at character 7$/],
    ['{', /is not JSON: its syntax is wrong at character 1$/],
    ['', /is not JSON: it ends too early$/],
    ['nonsense', /is not JSON: its syntax is wrong$/],
  ]
  for (const [text, message] of cases) {
    fs.writeFileSync(file, text)
    await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_INVALID_CONFIG', message)
  }
  fs.writeFileSync(file, Uint8Array.of(0x7b, 0xff, 0x7d))
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_INVALID_CONFIG', /is not JSON: it is not UTF-8$/)
})
