import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'

// What jest.config.cjs makes of a project: on the CPU, on a real GPU, or on an emulated one.

/** Where layers and models go that name no device. */
export const device = process.env.SMOE_DEVICE!
export const onCuda = device !== 'cpu'
export const emulated = onCuda && process.env.SMOE_REQUIRE_CUDA !== '1'
/** Less work for the emulation. */
export const fewer = (count: number, emulatedCount: number) => (emulated ? emulatedCount : count)

const hook = path.join(__dirname, 'typescript_hook.cjs')
const lib = path.join(__dirname, '..', '..', 'lib', 'index.ts')

/** What scripts of run() have: the package, `tiny()` which makes a layer, `rows(n)`, and `code(promise)`. */
const prelude = `
  const smoe = require(${JSON.stringify(lib)})
  const values = (shape, seed) => smoe.Tensor.from(
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(seed + i * 12.9898) * 0.3), shape)
  const [hidden, width, experts] = [16, 16, 4]
  const tiny = (device, options) => smoe.MoeLayer.create({
    router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 } },
    routerWeight: values([experts, hidden], 1),
    experts: Array.from({ length: experts }, (_, e) => ({
      gate: values([width, hidden], 10 + e), up: values([width, hidden], 20 + e), down: values([hidden, width], 30 + e),
    })),
    device, ...options,
  })
  const rows = (n) => values([n, hidden], 99)
  const code = (promise) => promise.then(() => 'ok', (error) => error.code)
  const message = (promise) => promise.then(() => '', (error) => error.message)
  const print = (value) => console.log(JSON.stringify(value))`

/**
 * Runs a script in a process of its own, where a backend can fail on purpose; a crash or an exception rejects. Gives the
 * JSON that it printed last.
 */
export async function run(body: string, env: Record<string, string> = {}): Promise<unknown> {
  const script = `${prelude}\n;(async () => {${body}})().catch((error) => { console.error(error); process.exit(9) })`
  const { stdout } = await promisify(execFile)(process.execPath, ['-r', hook, '-e', script], {
    timeout: 120_000,
    env: { ...process.env, ...env },
  })
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}
