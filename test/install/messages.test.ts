import path from 'node:path'
import { buildCommand } from '../../lib/native'
import { Package, addon, platform, plugin } from './package'

let smoe: Package
beforeEach(() => (smoe = new Package()))
afterEach(() => smoe.remove())

const rebuild = 'SMOE_BUILD_FROM_SOURCE=1 npm rebuild smoe'

/** The JSON that an asynchronous script prints. */
async function run(body: string, env: NodeJS.ProcessEnv = {}): Promise<unknown> {
  const script = `const smoe = require('smoe');
    const message = async (call) => { try { await call(); return '' } catch (error) { return error.message } };
    (async () => {${body}})().then((value) => console.log(JSON.stringify(value)))`
  return JSON.parse((await smoe.node(['-e', script], env)).output)
}
const gpu = () =>
  run('return (await smoe.devices())[1]') as Promise<{ available: boolean; why: string; fix: string }>

const doctor = (env: NodeJS.ProcessEnv = {}) =>
  smoe.node([path.join(smoe.dir, 'dist', 'cli', 'main.js'), 'doctor'], env)

test('without a binary: where it was looked for and the command that builds it in a package', async () => {
  const text = await run('return message(() => smoe.runtimeInfo())')
  for (const words of [path.join('prebuilds', platform), path.join('build', 'Release'), rebuild])
    expect(text).toContain(words)
  expect(text).not.toContain('npm start')
  const { code, output } = await doctor()
  expect(code).toBe(1)
  expect(output).toContain(`fix: ${rebuild}, with CMake`)
  expect(output).not.toContain('--build-from-source')
})

test('a binary that does not load: it alone was looked at', async () => {
  smoe.write(path.join('build', 'Release', 'smoe.node'), 'no library')
  const text = await run('return message(() => smoe.runtimeInfo())')
  expect(text).toContain(path.join('build', 'Release', 'smoe.node'))
  expect(text).not.toContain('prebuilds')
})

test('in a checkout, which npm does not rebuild, the command is npm start', async () => {
  expect(buildCommand({ cuda: true })).toMatch(/^SMOE_CUDA=1 npm start in ./)
  smoe.write(path.join('scripts', 'setup.cjs'), '')
  const text = await run('return message(() => smoe.runtimeInfo())')
  expect(text).toContain('npm start in ')
  expect(text).not.toContain('npm rebuild')
})

test('without a plug-in, device cuda is refused in the words of devices()', async () => {
  smoe.copy(addon, path.join('build', 'Release', 'smoe.node'))
  const { available, why, fix } = await gpu()
  expect(available).toBe(false)
  expect(fix).toContain(`SMOE_CUDA=1 ${rebuild}, with`)
  const create = `const of = (...shape) => smoe.Tensor.from(new Float32Array(shape[0] * shape[1]), shape)
    const experts = [0, 1].map(() => ({ gate: of(16, 16), up: of(16, 16), down: of(16, 16) }))
    const router = { score: { act: 'softmax' }, select: { kind: 'topK', k: 1 } }
    return message(() => smoe.MoeLayer.create({ device: 'cuda', router, routerWeight: of(2, 16), experts }))`
  expect(await run(create)).toBe(`CUDA device 0 cannot be used: ${why}; ${fix}; or use device "cpu"`)
})

test('an addon that was built here for the CPU uses the prebuilt plug-in, as far as it is for this C library', async () => {
  smoe.copy(addon, path.join('build', 'Release', 'smoe.node'))
  smoe.write(path.join('prebuilds', platform, plugin), 'no library')
  expect((await gpu()).why).toContain('this installation has no CUDA backend')
  smoe.write(path.join('prebuilds', platform, 'smoe.another.node'), '')
  expect((await gpu()).why).toContain('this installation has no CUDA backend')
  smoe.write(path.join('prebuilds', platform, 'smoe.node'), '')
  const prebuilt = await gpu()
  expect(prebuilt.why).toContain(path.join('prebuilds', platform, plugin)) // tried, and refused
  expect(prebuilt.fix).toContain(`SMOE_CUDA=1 ${rebuild}`)
  smoe.write(path.join('build', 'Release', plugin), 'no library')
  const own = await gpu()
  expect(own.why).toContain(path.join('build', 'Release', plugin))
  expect(own.fix).toContain(`SMOE_CUDA=1 ${rebuild}`)
})

test('a prebuilt plug-in of another release is for the package to mend', async () => {
  smoe.copy(addon, path.join('prebuilds', platform, 'smoe.node'))
  smoe.write(path.join('prebuilds', platform, plugin), 'no library')
  expect((await gpu()).fix).toContain('install smoe again')
})
