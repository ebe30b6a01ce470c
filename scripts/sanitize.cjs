'use strict'
// node scripts/sanitize.cjs asan | kernels | tsan | addon
//   asan     the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, on the base and the best instruction set
//   kernels  the CUDA kernels in emulation under both: not part of CI, where it would take a third of the time, because
//            the emulation guards global and shared memory itself and finds more there
//   tsan     the C++ tests that use threads under ThreadSanitizer
//   addon    jest's native tests against an addon built with both
// The last line is "N passed, M failed, K skipped".
const fs = require('node:fs')
const path = require('node:path')
const { spawnSync } = require('node:child_process')
const { runDoctests } = require('./doctest.cjs')
const { SetupError, dropForeignBuild, guard, inRoot, jobs, root, run, step } = require('./setup.cjs')

// Test cases that start threads or share state between them, by the words their names use.
const threaded = ['pool', 'thread', 'concurren', 'parallel', 'cancel', 'workspace', 'layer', 'decoder']

function build(dir, sanitize, targets, options) {
  dropForeignBuild(dir)
  step(`building with -fsanitize=${sanitize}`)
  const args = [
    '-S',
    root,
    '-B',
    dir,
    `-DSMOE_SANITIZE=${sanitize}`,
    '-DCMAKE_BUILD_TYPE=RelWithDebInfo',
    '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1 -DNDEBUG', // -O2 takes twice as long to compile and finds no more
    ...options,
  ]
  if (spawnSync('ninja', ['--version']).status === 0 && !fs.existsSync(path.join(dir, 'CMakeCache.txt'))) {
    args.push('-G', 'Ninja')
  }
  run('cmake', args, { stdio: ['ignore', 'ignore', 'inherit'] })
  run('cmake', ['--build', dir, '--parallel', jobs(), '--target', ...targets])
}

async function nativeTests(name, sanitize, target, isas, args) {
  const dir = inRoot(`build-${name}`)
  // Nothing but what runs: compilers are slow under sanitizers.
  build(dir, sanitize, [target], ['-DSMOE_TESTS=ON', `-DSMOE_ADDON=${name === 'asan' ? 'ON' : 'OFF'}`])
  const checks = { ASAN_OPTIONS: 'detect_leaks=1', TSAN_OPTIONS: 'halt_on_error=0 exitcode=66' }
  const runs = isas.map((isa) => ({
    label: isa ? `${name}, ${target}, ${isa}` : `${name}, ${target}`,
    command: [path.join(dir, 'native', 'test', target), '--no-colors', ...args],
    env: { ...checks, ...(isa ? { SMOE_ISA: isa } : {}) },
  }))
  // ThreadSanitizer cannot map its shadow memory under some address space layouts: ask for the plain one if possible.
  if (name === 'tsan' && spawnSync('setarch', ['-R', 'true']).status === 0) {
    for (const one of runs) one.command.unshift('setarch', '-R')
  }
  step(runs.map(({ label }) => label).join('; '))
  const results = await runDoctests(
    runs,
    Number(jobs()),
    root,
    ({ label }, result, { status, signal, output }) => {
      if (result.failed > 0) console.log(`${label}:\n${output.slice(-20000)}\n(exit ${signal ?? status})`)
      else console.log(`${label}: ${result.passed} passed`)
    },
  )
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const result of results) for (const key of Object.keys(total)) total[key] += result[key]
  return total
}

function addonTests() {
  const dir = inRoot('build-asan')
  build(dir, asan, ['smoe'], ['-DSMOE_TESTS=ON', '-DSMOE_ADDON=ON']) // the tree of the asan suite: the core compiles once
  const addon = ['.', 'Release', 'RelWithDebInfo']
    .map((sub) => path.join(dir, sub, 'smoe.node'))
    .find(fs.existsSync)
  if (!addon) throw new SetupError(`no smoe.node in ${path.relative(root, dir)}`)
  const library = spawnSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout.trim()
  step('jest against the instrumented addon')
  const report = path.join(dir, 'jest.json')
  fs.rmSync(report, { force: true })
  const jest = require.resolve('jest/bin/jest', { paths: [root] })
  // Only V8's own leaks would be reported at exit, so leak detection is off here; the C++ tests have it on.
  const env = { ...process.env, LD_PRELOAD: library, ASAN_OPTIONS: 'detect_leaks=0', SMOE_NATIVE: addon }
  const args = [
    jest,
    '-i',
    '--selectProjects=cpu', // the emulation of the ordinary build knows nothing of AddressSanitizer
    '--json',
    `--outputFile=${report}`,
    '--testNamePattern=^(?!.*do not grow the process)', // freed memory stays in AddressSanitizer's quarantine
    'test/native',
    'test/hostile',
    'test/lifecycle',
  ]
  const child = spawnSync(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'ignore', 'inherit'] })
  if (!fs.existsSync(report)) return { passed: 0, failed: 1, skipped: 0 }
  const json = JSON.parse(fs.readFileSync(report, 'utf8'))
  const failed = json.numFailedTests + json.numRuntimeErrorTestSuites
  const none = json.numPassedTests === 0 || (child.status !== 0 && failed === 0)
  return { passed: json.numPassedTests, failed: failed + (none ? 1 : 0), skipped: json.numPendingTests }
}

const asan = 'address,undefined'

const suites = {
  // Whole layers and models on an emulated device take too long under either.
  asan: () => nativeTests('asan', asan, 'smoe_tests', ['portable', undefined], ['-tce=*emulated*']),
  kernels: () => nativeTests('asan', asan, 'smoe_cuda_emu_tests', [undefined], []),
  tsan: () => {
    const filter = threaded.map((word) => `*${word}*`).join(',')
    return nativeTests('tsan', 'thread', 'smoe_tests', [undefined], [`-tc=${filter}`, '-tce=*emulated*'])
  },
  addon: addonTests,
}

guard(async () => {
  const suite = suites[process.argv[2]]
  if (!suite) throw new SetupError(`usage: node scripts/sanitize.cjs ${Object.keys(suites).join(' | ')}`)
  const { passed, failed, skipped } = await suite()
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`)
  return failed === 0 ? 0 : 1
})
