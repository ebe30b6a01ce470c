'use strict'
// What `npm start` and `npm test` share: bring a fresh machine to a built tree, and do nothing when it is built.
// Uses Node's own modules only, because node_modules may not be there yet.
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const inRoot = (...parts) => path.join(root, ...parts)

class SetupError extends Error {}

/** Runs a command in the repository; throws SetupError when it fails. */
function run(command, args, options = {}) {
  const child = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], ...options })
  if (child.error) throw new SetupError(`${command} did not start: ${child.error.message}`)
  if (child.status === 0) return child
  const end = child.signal ? `was ended by ${child.signal}` : `failed with exit code ${child.status}`
  throw new SetupError(`${[command, ...args].join(' ')} ${end}`)
}

function works(command, args = ['--version']) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

function step(title) {
  console.log(`\n== ${title}`)
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new SetupError(`Node 20.19 or newer is needed; this is ${process.version}`)
  }
}

/** The newest modification time below the given paths, in milliseconds. */
function newest(...paths) {
  let time = 0
  for (const file of paths) {
    const stat = fs.statSync(file, { throwIfNoEntry: false })
    if (!stat) continue
    time = Math.max(time, stat.mtimeMs)
    if (stat.isDirectory())
      time = Math.max(time, newest(...fs.readdirSync(file).map((name) => path.join(file, name))))
  }
  return time
}

function installModules() {
  if (fs.existsSync(inRoot('node_modules', 'typescript', 'package.json'))) return
  step('installing npm packages')
  // A production setting in the environment would leave out the compiler.
  run(process.platform === 'win32' ? 'npm.cmd' : 'npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], {
    shell: process.platform === 'win32',
  })
}

const tools = {
  cmake: { debian: 'cmake', other: 'CMake 3.22 or newer', found: () => works('cmake') },
  compiler: {
    debian: 'g++',
    other: 'a C++17 compiler (g++ or clang++)',
    found: () =>
      process.platform === 'win32' || [process.env.CXX, 'c++', 'g++', 'clang++'].some((c) => c && works(c)),
  },
  generator: {
    debian: 'ninja-build',
    other: 'ninja or make',
    found: () => process.platform === 'win32' || works('ninja') || works('make'),
  },
  doctest: {
    debian: 'doctest-dev',
    other: 'doctest 2.4 or newer (doctest/doctest.h on the include path)',
    found: () =>
      ['/usr/include', '/usr/local/include', '/opt/homebrew/include'].some((dir) =>
        fs.existsSync(path.join(dir, 'doctest', 'doctest.h')),
      ),
  },
}

/** Installs the named tools with apt-get, or says exactly what to install. */
function installTools(names) {
  const missing = names.filter((name) => !tools[name].found())
  if (missing.length === 0) return
  const packages = missing.map((name) => tools[name].debian)
  const isRoot = process.getuid?.() === 0
  const sudo = isRoot ? [] : works('sudo', ['-V']) ? ['sudo', ...(process.stdin.isTTY ? [] : ['-n'])] : null
  if (!works('apt-get') || sudo === null) {
    const byHand = works('apt-get')
      ? `as root: apt-get update && apt-get install -y ${packages.join(' ')}`
      : missing.map((name) => tools[name].other).join('; ')
    throw new SetupError(`missing on this machine, please install ${byHand}`)
  }
  step(`installing ${packages.join(', ')}`)
  const apt = (...args) => {
    const [command, ...rest] = [...sudo, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', ...args]
    run(command, rest, { stdio: [process.stdin.isTTY ? 'inherit' : 'ignore', 'inherit', 'inherit'] })
  }
  apt('update')
  apt('install', '-y', '--no-install-recommends', ...packages)
}

/** Jobs for the compiler: one per CPU, fewer where memory is short (about 1 GB each). */
function jobs() {
  const byMemory = Math.max(1, Math.floor(os.totalmem() / 2 ** 30))
  return String(Math.max(1, Math.min(os.availableParallelism(), byMemory)))
}

/** A build folder keeps absolute paths: one that was moved here with the tree cannot be used. */
function dropForeignBuild(dir) {
  const cache = path.join(dir, 'CMakeCache.txt')
  if (!fs.existsSync(cache)) return
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(fs.readFileSync(cache, 'utf8'))?.[1]
  if (!home || !fs.existsSync(home) || fs.realpathSync(home) !== fs.realpathSync(root))
    fs.rmSync(dir, { recursive: true })
}

function cmakeJs(...args) {
  const bin = path.join(
    path.dirname(require.resolve('cmake-js/package.json', { paths: [root] })),
    'bin',
    'cmake-js',
  )
  run(process.execPath, [bin, ...args, '-l', 'warn'])
}

/** The CUDA plug-in: SMOE_CUDA=1 demands it, SMOE_CUDA=0 leaves it out, else it is built where nvcc is found. */
const cudaChoice = { 0: 'OFF', 1: 'ON' }[process.env.SMOE_CUDA]

/** Builds build/Release/smoe.node; with `tests` also the C++ tests, in the same tree so that the core compiles once. */
function buildNative({ tests = false } = {}) {
  const dir = inRoot('build')
  dropForeignBuild(dir)
  step(tests ? 'building the native addon and its tests' : 'building the native addon')
  if (!fs.existsSync(path.join(dir, 'CMakeCache.txt'))) cmakeJs('configure')
  const cache = () => fs.readFileSync(path.join(dir, 'CMakeCache.txt'), 'utf8')
  const wanted = [
    ...(tests ? ['SMOE_TESTS:BOOL=ON'] : []),
    ...(cudaChoice ? [`SMOE_CUDA:STRING=${cudaChoice}`] : []),
  ].filter((entry) => !cache().split('\n').includes(entry))
  const options = wanted.map((entry) => `-D${entry}`)
  // CMake remembers that there was no nvcc, and would not find one that has come since.
  if (cudaChoice === 'ON' && /^CMAKE_CUDA_COMPILER:\w+=(.*-)?NOTFOUND$/m.test(cache())) {
    options.push('-UCMAKE_CUDA_COMPILER')
  }
  if (options.length > 0) {
    run('cmake', ['-S', root, '-B', dir, ...options], { stdio: ['ignore', 'ignore', 'inherit'] })
  }
  if (/^CMAKE_CUDA_COMPILER:\w+=\//m.test(cache()) && !/^SMOE_CUDA:STRING=OFF$/m.test(cache())) {
    console.log('nvcc was found: the CUDA plug-in is built too, minutes at first (SMOE_CUDA=0 leaves it out)')
  }
  run('cmake', ['--build', dir, '--config', 'Release', '--parallel', jobs()])
}

function buildTypeScript() {
  const built = fs.statSync(inRoot('dist', 'index.mjs'), { throwIfNoEntry: false })?.mtimeMs ?? 0
  const sources = ['lib', 'binding.d.ts', 'tsconfig.json', 'tsconfig.build.json', 'scripts/esm-wrapper.cjs']
  if (built > newest(...sources.map((name) => inRoot(name)))) return
  step('compiling TypeScript')
  fs.rmSync(inRoot('dist'), { recursive: true, force: true }) // no leftovers of deleted sources
  run(process.execPath, [inRoot('node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json'])
  run(process.execPath, [inRoot('scripts', 'esm-wrapper.cjs')])
}

/** Everything up to a built tree. */
function setup({ tests = false } = {}) {
  checkNode()
  installTools(['cmake', 'compiler', 'generator', ...(tests ? ['doctest'] : [])])
  installModules()
  buildNative({ tests })
  buildTypeScript()
}

/** Runs `main` and turns a SetupError into one clear line. */
/** Runs `main`, which may be asynchronous and returns the exit code. */
async function guard(main) {
  try {
    process.exitCode = (await main()) ?? 0
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`\nerror: ${error.message}`)
    process.exitCode = 1
  }
}

module.exports = {
  root,
  inRoot,
  run,
  works,
  step,
  setup,
  guard,
  jobs,
  installTools,
  dropForeignBuild,
  SetupError,
}
