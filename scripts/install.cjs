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

/** Null when the code runs, else why not. In a child process: a wrong binary may crash, and dlopen has no undo. */
function problemOf(code) {
  const child = spawnSync(process.execPath, ['-e', code], { cwd: root, encoding: 'utf8' })
  if (child.status === 0) return null
  const line = (child.stderr || '').split('\n').find((text) => /Error: /.test(text))
  return line?.trim() ?? `the loading process ended with ${child.signal ?? child.status}`
}
const loadProblem = () => problemOf(`require('node-gyp-build')(${JSON.stringify(root)})`)

const works = (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0

/** Whether CMake will find nvcc: in CUDACXX, which stands alone and may carry arguments, else where CMakeLists.txt looks. */
function hasNvcc() {
  const { CUDACXX, CUDA_HOME, CUDA_PATH } = process.env
  if (CUDACXX) return works(CUDACXX) || works(CUDACXX.split(' ')[0])
  const homes = [CUDA_HOME, CUDA_PATH].filter(Boolean)
  return ['nvcc', ...homes.map((home) => path.join(home, 'bin', 'nvcc'))].some(works)
}

/** Which of the tools for a source build are missing: asked before cmake-js, whose own message is a stack trace. */
function missingTools() {
  const missing = []
  if (!works('cmake')) missing.push({ what: 'CMake 3.22 or newer', debian: 'cmake' })
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean)
  if (process.platform !== 'win32' && !compilers.some(works)) {
    missing.push({ what: 'a C++17 compiler', debian: 'g++' })
  }
  if (process.platform !== 'win32' && !works('ninja') && !works('make')) {
    missing.push({ what: 'ninja or make', debian: 'ninja-build' })
  }
  return missing
}

function fail(...lines) {
  for (const line of lines) console.error(`smoe: ${line}`)
  process.exit(1)
}

if (!fromSource && loadProblem() === null) process.exit(0)

const missing = missingTools()
if (missing.length > 0) {
  const why = fromSource ? '' : `no prebuilt binary for ${process.platform}-${process.arch} and `
  fail(
    `${why}no source build: ${missing.map(({ what }) => what).join(', ')} not found on PATH`,
    `on Debian or Ubuntu: apt-get install ${missing.map(({ debian }) => debian).join(' ')}, then the same again`,
  )
}
// The kernels take nvcc minutes: nobody should wait for them who did not ask.
const cuda = process.env.SMOE_CUDA === '1'
if (cuda && !hasNvcc()) {
  fail(
    `SMOE_CUDA=1 asks for the CUDA plug-in, but ${
      process.env.CUDACXX
        ? `CUDACXX=${process.env.CUDACXX} does not run`
        : 'no nvcc that runs was found on PATH or in bin/ of CUDA_HOME and CUDA_PATH'
    }; nothing was changed`,
    'install the CUDA toolkit, or set CUDACXX to its nvcc; without SMOE_CUDA=1 smoe is built for the CPU only',
  )
}
if (!cuda && hasNvcc()) {
  console.error(
    'smoe: building for the CPU only; SMOE_CUDA=1 SMOE_BUILD_FROM_SOURCE=1 npm rebuild smoe adds CUDA (minutes)',
  )
}

// In a folder of its own: until the new binaries are there and load, those of before serve on, whatever ends the build.
const work = path.join(root, 'build-install')
const built = path.join(work, 'Release')
const release = path.join(root, 'build', 'Release')
const before = path.join(work, 'before')
const had = fs.existsSync(release)

function failBuild(reason) {
  fs.rmSync(work, { recursive: true, force: true })
  fail(reason, ...(had ? ['the binaries of before are left as they were'] : []))
}

const cmakeJs = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
const args = ['rebuild', '-d', root, '-O', work, `--CDSMOE_CUDA=${cuda ? 'ON' : 'OFF'}`]
const build = spawnSync(process.execPath, [cmakeJs, ...args], { cwd: root, stdio: 'inherit' })
if (build.status !== 0) failBuild('the source build failed; what the tools said is above')
const problem = problemOf(`require(${JSON.stringify(path.join(built, 'smoe.node'))})`)
if (problem !== null) failBuild(`the built binary does not load: ${problem}`)

// A build for the CPU takes no GPU away from who had one. SMOE_CUDA=0 says that it shall.
const plugin = process.platform === 'win32' ? 'smoe_cuda.dll' : 'smoe_cuda.so'
if (!cuda && process.env.SMOE_CUDA !== '0' && fs.existsSync(path.join(release, plugin))) {
  fs.copyFileSync(path.join(release, plugin), path.join(built, plugin))
  console.error('smoe: the CUDA plug-in of the earlier build stays; SMOE_CUDA=0 leaves it out')
}
fs.mkdirSync(path.dirname(release), { recursive: true })
if (had) fs.renameSync(release, before)
try {
  fs.renameSync(built, release)
} catch (error) {
  if (had) fs.renameSync(before, release)
  failBuild(`the built binary cannot be put in its place: ${error.message}`)
}
fs.rmSync(work, { recursive: true, force: true })
