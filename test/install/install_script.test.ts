import path from 'node:path'
import { Package, addon, platform, plugin } from './package'

const release = (file: string) => path.join('build', 'Release', file)
const fromSource = { SMOE_BUILD_FROM_SOURCE: '1' }

let smoe: Package
beforeEach(() => (smoe = new Package()))
afterEach(() => smoe.remove())

/** A source build of before, with a plug-in. */
function built(): void {
  smoe.copy(addon, release('smoe.node'))
  smoe.write(release(plugin), 'of before')
}

/** What is there now loads. */
async function expectWorks(): Promise<void> {
  const script = `require('smoe').runtimeInfo(); console.log('works')`
  expect((await smoe.node(['-e', script])).output).toBe('works\n')
}

test('nothing to build where a prebuilt binary loads', async () => {
  smoe.copy(addon, path.join('prebuilds', platform, 'smoe.node'))
  expect(await smoe.install()).toEqual({ code: 0, output: '' })
  expect(smoe.read('builds.txt')).toBeNull()
})

test('without a binary the addon is built, for the CPU only, and nothing else stays', async () => {
  expect((await smoe.install()).code).toBe(0)
  expect(smoe.read('builds.txt')).toContain('--CDSMOE_CUDA=OFF')
  expect(smoe.read('build-install')).toBeNull()
  await expectWorks()
})

test.each([
  ['CUDACXX that is not there', { CUDACXX: '/nonexistent/nvcc' }, 'CUDACXX=/nonexistent/nvcc does not run'],
  ['no nvcc anywhere', { CUDA_HOME: '/nonexistent' }, 'no nvcc that runs was found on PATH'],
])('SMOE_CUDA=1 with %s fails before anything is touched', async (_, env, why) => {
  built()
  const { code, output } = await smoe.install({ ...fromSource, ...env, SMOE_CUDA: '1' })
  expect(code).toBe(1)
  expect(output).toContain(why)
  expect(output).toContain('install the CUDA toolkit')
  expect(output).not.toContain('apt-get')
  expect(smoe.read('builds.txt')).toBeNull()
  expect(smoe.read(release(plugin))).toBe('of before')
  await expectWorks()
})

test.each([
  ['PATH', (at: Package) => (at.tool(path.join(at.bin, 'nvcc')), {})],
  ['CUDACXX', (at: Package) => ({ CUDACXX: at.tool(path.join(at.work, 'elsewhere', 'nvcc')) })],
  [
    'CUDACXX with arguments',
    (at: Package) => ({ CUDACXX: `${at.tool(path.join(at.work, 'x', 'nvcc'))} -v` }),
  ],
  [
    'CUDA_HOME',
    (at: Package) => (at.tool(path.join(at.work, 'cuda', 'bin', 'nvcc')), { CUDA_HOME: `${at.work}/cuda` }),
  ],
  [
    'CUDA_PATH',
    (at: Package) => (at.tool(path.join(at.work, 'cuda', 'bin', 'nvcc')), { CUDA_PATH: `${at.work}/cuda` }),
  ],
])('SMOE_CUDA=1 finds nvcc in %s, as CMake does', async (_, prepare) => {
  built()
  const { code } = await smoe.install({ ...fromSource, SMOE_CUDA: '1', ...prepare(smoe) })
  expect(code).toBe(0)
  expect(smoe.read('builds.txt')).toContain('--CDSMOE_CUDA=ON')
  expect(smoe.read(release(plugin))).toBe('built')
  await expectWorks()
})

test.each([
  ['fails', { STUB_FAILS: '1' }, 'the source build failed'],
  ['gives a binary that does not load', { STUB_BREAKS: '1' }, 'the built binary does not load'],
])('a build that %s leaves the binaries of before', async (_, env, why) => {
  built()
  const { code, output } = await smoe.install({ ...fromSource, ...env })
  expect(code).toBe(1)
  expect(output).toContain(why)
  expect(output).toContain('left as they were')
  expect(output).not.toContain('apt-get') // no tool is missing
  expect(smoe.read('builds.txt')).not.toBeNull()
  expect(smoe.read(release(plugin))).toBe('of before')
  expect(smoe.read('build-install')).toBeNull()
  await expectWorks()
})

test('a build for the CPU keeps the plug-in that an earlier build made, unless told not to', async () => {
  built()
  expect((await smoe.install(fromSource)).output).toContain('plug-in of the earlier build stays')
  expect(smoe.read(release(plugin))).toBe('of before')
  expect((await smoe.install({ ...fromSource, SMOE_CUDA: '0' })).code).toBe(0)
  expect(smoe.read(release(plugin))).toBeNull()
})

test('names the tools that are missing, and the packages of those alone', async () => {
  const { code, output } = await smoe.install({ PATH: path.join(smoe.work, 'nothing') })
  expect(code).toBe(1)
  expect(output).toMatch(/^smoe: no prebuilt binary for .* CMake 3.22 or newer, .* not found on PATH$/m)
  expect(output).toContain('apt-get install cmake g++ ninja-build,')
  smoe.tool(path.join(smoe.work, 'some', 'c++'))
  smoe.tool(path.join(smoe.work, 'some', 'make'))
  const { output: fewer } = await smoe.install({ ...fromSource, PATH: path.join(smoe.work, 'some') })
  expect(fewer).toMatch(/^smoe: no source build: CMake 3.22 or newer not found on PATH$/m)
  expect(fewer).toContain('apt-get install cmake,')
})

test('says how to have CUDA where nvcc is and nobody asked', async () => {
  smoe.tool(path.join(smoe.bin, 'nvcc'))
  expect((await smoe.install()).output).toContain('SMOE_CUDA=1 SMOE_BUILD_FROM_SOURCE=1 npm rebuild smoe')
})
