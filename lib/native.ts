import fs from 'node:fs'
import path from 'node:path'
import nodeGypBuild from 'node-gyp-build'
import type * as Binding from '../binding'
import { SmoeError, fromNative, rangeError } from './errors'

/** Folder of package.json: one above lib/ and one above dist/. */
const root = path.join(__dirname, '..')
const prebuilds = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const lookedFor = [prebuilds, path.join(root, 'build', 'Release')].map((dir) => path.join(dir, '*.node'))

let binding: typeof Binding | undefined
let file: string | undefined

/** kMaxPoolThreads of native/core/thread_pool.h. */
export const maxThreads = 256

/**
 * The native addon, loaded on first use: importing the package never throws. SMOE_NATIVE names another .node file.
 * @throws SmoeError ERR_SMOE_NATIVE_UNAVAILABLE with what was looked for and the commands that cure it; RangeError for a
 * SMOE_THREADS that is none.
 */
export function native(): typeof Binding {
  if (binding === undefined) {
    checkThreadsVariable()
    const found = findBinary()
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      binding = require(found) as typeof Binding
    } catch (error) {
      const [why] = (error as Error).message.split('\n') // a file that is not there comes with who required it
      throw unavailable(`${found} does not load: ${why}`, [found], error)
    }
    binding.setCudaLibrary(cudaLibrary(found))
    file = found
  }
  return binding
}

/** SMOE_THREADS is read by the addon, which takes every core for a number that it cannot use, and says nothing. */
export function checkThreadsVariable(): void {
  const threads = process.env.SMOE_THREADS
  if (threads === undefined || threads === '') return
  if (/^\d+$/.test(threads) && Number(threads) >= 1 && Number(threads) <= maxThreads) return
  throw rangeError('SMOE_THREADS', `an integer from 1 to ${maxThreads}`, threads)
}

/**
 * The CUDA plug-in: SMOE_CUDA_LIBRARY, else the one beside the addon, else the prebuilt one, which an addon that was built
 * here for the CPU only can use: the addon refuses one of another release. '' when there is none. It is not loaded here.
 */
function cudaLibrary(addon: string): string {
  const override = process.env.SMOE_CUDA_LIBRARY
  if (override !== undefined && override !== '') return path.resolve(override)
  const name = process.platform === 'win32' ? 'smoe_cuda.dll' : 'smoe_cuda.so'
  const beside = path.join(path.dirname(addon), name)
  if (fs.existsSync(beside)) return beside
  const prebuilt = path.join(prebuilds, name)
  return !process.env.SMOE_NATIVE && fs.existsSync(prebuilt) && prebuiltForLibc() ? prebuilt : ''
}

/** Whether the prebuilt binaries are for the C library of this process: the name of the plug-in does not say. */
function prebuiltForLibc(): boolean {
  const [tag = ''] = libc().split(' ')
  return ['smoe.node', `smoe.${tag}.node`].some((addon) => fs.existsSync(path.join(prebuilds, addon)))
}

/** Path of the loaded addon; undefined before the first use. */
export function nativeFile(): string | undefined {
  return file
}

/** Whether this is the repository: its scripts are not in the package, and npm does not rebuild it. */
const inCheckout = (): boolean => fs.existsSync(path.join(root, 'scripts', 'setup.cjs'))

/** The command that builds the addon from source, and with `cuda` the plug-in. */
export function buildCommand({ cuda = false } = {}): string {
  const variable = cuda ? 'SMOE_CUDA=1 ' : ''
  return inCheckout()
    ? `${variable}npm start in ${root}`
    : `${variable}SMOE_BUILD_FROM_SOURCE=1 npm rebuild smoe`
}

/** "linux x64 glibc 2.36": the platform as prebuilt binaries are named, plus the C library. */
export function platformText(): string {
  return [process.platform, process.arch, libc()].filter((part) => part !== '').join(' ')
}

/** Runs a native call and gives its failure this package's error classes. */
export function guarded<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw fromNative(error)
  }
}

/**
 * Runs an asynchronous native call that `signal` can stop: the promise then rejects with the signal's own reason.
 */
export async function abortable<T>(
  signal: AbortSignal | undefined,
  call: (cancel: Binding.CancelToken | undefined) => Promise<T>,
): Promise<T> {
  if (signal === undefined) {
    try {
      return await call(undefined)
    } catch (error) {
      throw fromNative(error)
    }
  }
  signal.throwIfAborted()
  const cancel = new (native().CancelToken)()
  const onAbort = () => cancel.cancel()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await call(cancel)
  } catch (error) {
    throw fromNative(error, signal)
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function findBinary(): string {
  const override = process.env.SMOE_NATIVE
  if (override !== undefined && override !== '') return path.resolve(override)
  try {
    return nodeGypBuild.resolve(root)
  } catch (error) {
    throw unavailable('no binary was found', lookedFor, error)
  }
}

function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report as { excludeNetwork?: boolean; getReport(): unknown }
  report.excludeNetwork = true // the report would otherwise look up host names
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header?.glibcVersionRuntime === undefined ? 'musl' : `glibc ${header.glibcVersionRuntime}`
}

/** What to do about a SMOE_NATIVE that does not load; undefined when it is not set. */
export const nativeVariableFix = (): string | undefined =>
  process.env.SMOE_NATIVE
    ? 'unset SMOE_NATIVE, or set it to the path of a smoe.node of this release'
    : undefined

function unavailable(why: string, tried: readonly string[], cause: unknown): SmoeError {
  const variable = nativeVariableFix()
  const build = `build it here (C++17 compiler, CMake): ${buildCommand()}`
  const scripts =
    'install scripts were skipped (--ignore-scripts, pnpm): allow them for smoe, or run the rebuild above'
  const cures = variable !== undefined ? [variable] : inCheckout() ? [build] : [build, scripts]
  const message = [
    `smoe has no native addon for ${platformText()} (node ${process.version}): ${why}.`,
    'Looked for:',
    ...tried.map((file) => `  - ${file}${variable === undefined ? '' : ' (SMOE_NATIVE)'}`),
    'What to do:',
    ...[...cures, 'see what is missing: npx smoe doctor'].map((cure) => `  - ${cure}`),
  ].join('\n')
  return new SmoeError('ERR_SMOE_NATIVE_UNAVAILABLE', message, { cause })
}
