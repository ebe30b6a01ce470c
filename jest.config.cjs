'use strict'
// Two projects: everything on the CPU, and the suites of layers and models once more on a GPU or its emulation, by what
// 'auto' and no device mean there (SMOE_DEVICE). SMOE_REQUIRE_CUDA=1 runs the second on the plug-in and a real GPU, and
// fails without one.
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

// A process loads one CUDA backend, so it is chosen here, for all jest workers and their children.
process.env.SMOE_DEVICE = 'cpu' // also in children that tests start
const gpu = process.env.SMOE_REQUIRE_CUDA === '1'
if (!gpu && !process.env.SMOE_CUDA_LIBRARY) {
  const emulation = ['build', 'build/Release', 'build/native/test', 'build-cuda/native/test']
    .map((dir) => path.join(__dirname, dir, 'smoe_cuda_emu.so'))
    .find((file) => fs.existsSync(file))
  if (emulation) process.env.SMOE_CUDA_LIBRARY = emulation
}
const cuda = gpu || Boolean(process.env.SMOE_CUDA_LIBRARY)
if (!cuda)
  console.error('jest: smoe_cuda_emu.so is not built (npm run test:native does): no tests of CUDA devices')

const project = (displayName, device, testMatch) => ({
  displayName,
  testEnvironment: '<rootDir>/test/environment.cjs',
  testEnvironmentOptions: { env: { SMOE_DEVICE: device } },
  roots: ['<rootDir>/test'],
  testMatch,
  modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/dist'],
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      {
        jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
        module: { type: 'commonjs' },
        sourceMaps: 'inline',
      },
    ],
  },
})

// Emulated kernels are a thousand times slower than real ones: only suites that run on devices, and some of their tests
// with fewer cases (test/helpers/device.ts).
const onDevices = [
  'layer/forward',
  'layer/formats',
  'layer/activations',
  'momentum/state',
  'model/reference',
  'model/architectures',
]
const tests = (names) => names.map((name) => `<rootDir>/test/${name}.test.ts`)

module.exports = {
  collectCoverageFrom: ['lib/**/*.ts', '!lib/**/*.d.ts'],
  testTimeout: 60_000,
  // Jest would leave a core free, which on two means one worker; the addon's own threads need no more than half of many.
  maxWorkers: Math.max(2, Math.floor(os.availableParallelism() / 2)),
  projects: [
    project('cpu', 'cpu', ['**/test/!(device)/**/*.test.ts', '**/test/*.test.ts']),
    ...(cuda ? [project('cuda', 'cuda:0', tests([...onDevices, 'model/generate', 'device/*']))] : []),
  ],
}
