import fs from 'node:fs'
import path from 'node:path'
import { Package } from './package'

const setup = path.join(__dirname, '..', '..', 'scripts', 'setup.cjs')

let smoe: Package
beforeEach(() => (smoe = new Package()))
afterEach(() => smoe.remove())

/** What cmake is called with in a tree that was configured before, as its cache says. */
async function configures(cache: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  const calls = path.join(smoe.work, 'cmake.txt')
  fs.writeFileSync(path.join(smoe.bin, 'cmake'), `#!/bin/sh\necho "$@" >> '${calls}'\n`, { mode: 0o755 })
  smoe.copy(setup, path.join('scripts', 'setup.cjs'))
  smoe.write(path.join('node_modules', 'typescript', 'package.json'), '{}')
  smoe.write(path.join('build', 'CMakeCache.txt'), `CMAKE_HOME_DIRECTORY:INTERNAL=${smoe.dir}\n${cache}\n`)
  const script = `require(${JSON.stringify(path.join(smoe.dir, 'scripts', 'setup.cjs'))}).setup()`
  expect((await smoe.node(['-e', script], env)).code).toBe(0)
  return fs
    .readFileSync(calls, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('-S'))
}

test('SMOE_CUDA=1 looks for nvcc again where CMake remembers that there was none', async () => {
  const without = 'SMOE_CUDA:STRING=AUTO\nCMAKE_CUDA_COMPILER:FILEPATH=NOTFOUND'
  expect(await configures(without, { SMOE_CUDA: '1' })).toEqual([
    expect.stringMatching(/-DSMOE_CUDA:STRING=ON -UCMAKE_CUDA_COMPILER$/),
  ])
  const failed = 'SMOE_CUDA:STRING=ON\nCMAKE_CUDA_COMPILER:FILEPATH=CMAKE_CUDA_COMPILER-NOTFOUND'
  expect(await configures(failed, { SMOE_CUDA: '1' })).toContainEqual(
    expect.stringMatching(/-UCMAKE_CUDA_COMPILER$/),
  )
})

test('nothing is configured again without need', async () => {
  expect(await configures('SMOE_CUDA:STRING=AUTO\nCMAKE_CUDA_COMPILER:FILEPATH=NOTFOUND', {})).toEqual([])
  const found = 'SMOE_CUDA:STRING=ON\nCMAKE_CUDA_COMPILER:FILEPATH=/usr/bin/nvcc'
  expect(await configures(found, { SMOE_CUDA: '1' })).toEqual([])
})
