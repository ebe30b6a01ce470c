'use strict'
// `npm test`: installs what is missing, builds, runs the C++ tests once per instruction set and then jest, and ends
// with one line that adds everything up. `--native` or `--js` runs one half; further arguments go to jest.
const fs = require('node:fs')
const { spawnSync } = require('node:child_process')
const { SKIPPED, runDoctests } = require('./doctest.cjs')
const { guard, inRoot, jobs, setup, step, root } = require('./setup.cjs')

const args = process.argv.slice(2)
const only = args.find((arg) => arg === '--native' || arg === '--js')
const jestArgs = args.filter((arg) => arg !== only)
const binary = (name) =>
  inRoot('build', 'native', 'test', process.platform === 'win32' ? `${name}.exe` : name)

/** The instruction sets that native/test/CMakeLists.txt registers, through ctest's own list. */
function registered() {
  const list = spawnSync('ctest', ['--test-dir', inRoot('build'), '--show-only=json-v1'], {
    encoding: 'utf8',
  })
  const { tests } = JSON.parse(list.stdout)
  return tests.map(({ name }) => /^native\.(\w+)$/.exec(name)?.[1]).filter(Boolean)
}

async function nativeTests() {
  // Layers on an emulated device depend on no instruction set.
  const runs = registered().map((isa) => ({
    name: isa,
    command: [binary('smoe_tests'), '--no-colors', '-tce=*emulated*'],
    env: { SMOE_ISA: isa },
  }))
  // The CUDA kernels in emulation, and the layers above them, which take longest; not built on Windows.
  const emulated = binary('smoe_cuda_emu_tests')
  if (fs.existsSync(emulated)) {
    runs.unshift(
      { name: 'cuda_emu', command: [emulated, '--no-colors'] },
      { name: 'layers_emulated', command: [binary('smoe_tests'), '--no-colors', '-tc=*emulated*'] },
    )
  }
  const device = binary('smoe_cuda_device_tests')
  if (fs.existsSync(device)) runs.push({ name: 'cuda_device', command: [device, '--no-colors'] })
  if (runs.length === 0) return [{ name: 'native', passed: 0, failed: 1, skipped: 0 }]
  step(`C++ tests: ${runs.map(({ name }) => name).join(', ')}`)
  const results = await runDoctests(
    runs,
    Number(jobs()),
    root,
    ({ name }, result, { status, signal, output }) => {
      if (result.failed > 0) console.log(`${name}:\n${output}\n(exit ${signal ?? status})`)
      else if (status === SKIPPED) console.log(`${name}: skipped, this CPU lacks it`)
      else console.log(`${name}: ${result.passed} test cases passed`)
    },
  )
  return runs.map(({ name }, i) => ({ name: `native.${name}`, ...results[i] }))
}

/** Whether the CUDA plug-in finds a GPU that it can use. In a child: a process loads one backend, jest an emulated one. */
function hasGpu() {
  const script = `require('./build/Release/smoe.node').setCudaLibrary(require('path').resolve('build/Release/smoe_cuda.so'));
    require('./build/Release/smoe.node').cudaInfo().then(({ kind, devices }) =>
      process.exit(kind === 'cuda' && devices.some(({ problem }) => problem === undefined) ? 0 : 1))`
  return spawnSync(process.execPath, ['-e', script], { cwd: root, stdio: 'ignore' }).status === 0
}

function jestTests() {
  const results = [runJest('jest', [], {})]
  if (process.env.SMOE_REQUIRE_CUDA !== '1' && !hasGpu()) return results
  return [...results, runJest('jest.gpu', ['--selectProjects=cuda'], { SMOE_REQUIRE_CUDA: '1' })]
}

function runJest(name, args, env) {
  step(name)
  const report = inRoot('build', `${name}.json`)
  fs.rmSync(report, { force: true })
  const jest = require.resolve('jest/bin/jest', { paths: [root] })
  const child = spawnSync(
    process.execPath,
    [jest, ...args, '--json', `--outputFile=${report}`, ...jestArgs],
    {
      cwd: root,
      env: { ...process.env, SMOE_REQUIRE_CUDA: '', ...env },
      stdio: ['ignore', 'ignore', 'inherit'], // the report goes to the file; what jest says of each suite is on stderr
    },
  )
  const result = { name, passed: 0, failed: 0, skipped: 0 }
  if (fs.existsSync(report)) {
    const json = JSON.parse(fs.readFileSync(report, 'utf8'))
    result.passed = json.numPassedTests
    result.failed = json.numFailedTests + json.numRuntimeErrorTestSuites
    result.skipped = json.numPendingTests + json.numTodoTests
  }
  if (result.passed + result.failed === 0 || (child.status !== 0 && result.failed === 0)) result.failed++
  return result
}

guard(async () => {
  setup({ tests: only !== '--js' })
  const results = [
    ...(only === '--js' ? [] : await nativeTests()),
    ...(only === '--native' ? [] : jestTests()),
  ]
  const total = { passed: 0, failed: 0, skipped: 0 }
  console.log('')
  for (const { name, passed, failed, skipped } of results) {
    console.log(`${name.padEnd(20)} ${passed} passed, ${failed} failed, ${skipped} skipped`)
    total.passed += passed
    total.failed += failed
    total.skipped += skipped
  }
  fs.writeFileSync(inRoot('build', 'test-results.json'), JSON.stringify({ ...total, suites: results }))
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
  return total.failed === 0 ? 0 : 1
})
