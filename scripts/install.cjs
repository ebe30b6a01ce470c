'use strict'
// The npm `install` hook. Nothing to do when a prebuilt binary loads; otherwise the addon is built from source.
const path = require('node:path')
const fs = require('node:fs')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const fromSource =
  process.env.npm_config_build_from_source === 'true' || process.env.SMOE_BUILD_FROM_SOURCE === '1'

// `npm install` inside the repository runs this hook too; there the build is `npm start` or `npm run build`.
const initCwd = process.env.INIT_CWD
if (initCwd && fs.existsSync(initCwd) && fs.realpathSync(initCwd) === fs.realpathSync(root)) process.exit(0)

/** Null when the binary loads, else why not. In a child process: a wrong binary may crash, and dlopen has no undo. */
function loadProblem() {
  const code = `require('node-gyp-build')(${JSON.stringify(root)})`
  const child = spawnSync(process.execPath, ['-e', code], { cwd: root, encoding: 'utf8' })
  if (child.status === 0) return null
  const line = (child.stderr || '').split('\n').find((text) => /Error: /.test(text))
  return line?.trim() ?? `the loading process ended with ${child.signal ?? child.status}`
}

/** Which of the tools for a source build are missing: asked before cmake-js, whose own message is a stack trace. */
function missingTools() {
  const works = (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0
  const missing = []
  if (!works('cmake')) missing.push('CMake 3.22 or newer')
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean)
  if (process.platform !== 'win32' && !compilers.some(works)) missing.push('a C++17 compiler')
  if (process.platform !== 'win32' && !works('ninja') && !works('make')) missing.push('ninja or make')
  return missing
}

function fail(reason) {
  console.error(`smoe: ${reason}`)
  console.error('smoe: on Debian or Ubuntu: apt-get install cmake g++ ninja-build, then npm rebuild smoe')
  process.exit(1)
}

if (!fromSource && loadProblem() === null) process.exit(0)

const missing = missingTools()
if (missing.length > 0) {
  const platform = `${process.platform}-${process.arch}`
  fail(`no prebuilt binary for ${platform} and no source build: ${missing.join(', ')} not found on PATH`)
}
const cmakeJs = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
// The kernels take nvcc minutes: nobody should wait for them who did not ask.
const cuda = process.env.SMOE_CUDA === '1'
if (!cuda && spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).status === 0) {
  console.error(
    'smoe: building for the CPU only; SMOE_CUDA=1 npm rebuild smoe --build-from-source adds CUDA (minutes)',
  )
}
const args = ['rebuild', '-d', root, `--CDSMOE_CUDA=${cuda ? 'ON' : 'OFF'}`]
const build = spawnSync(process.execPath, [cmakeJs, ...args], { cwd: root, stdio: 'inherit' })
if (build.status !== 0) fail('the source build failed; the compiler output is above')
const problem = loadProblem()
if (problem !== null) fail(`the built binary does not load: ${problem}`)
