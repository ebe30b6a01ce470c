import fs from 'node:fs'
import path from 'node:path'
import nodeGypBuild from 'node-gyp-build'
import type * as Binding from '../binding'
import { SmoeError, fromNative } from './errors'

/** Folder of package.json: one above lib/ and one above dist/. */
const root = path.join(__dirname, '..')

let binding: typeof Binding | undefined
let file: string | undefined

/**
 * The native addon, loaded on first use: importing the package never throws. SMOE_NATIVE names another .node file.
 * @throws SmoeError ERR_SMOE_NATIVE_UNAVAILABLE with what was looked for and the commands that cure it.
 */
export function native(): typeof Binding {
  if (binding === undefined) {
    const found = findBinary()
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      binding = require(found) as typeof Binding
    } catch (error) {
      throw unavailable(`${found} does not load: ${(error as Error).message}`, error)
    }
    binding.setCudaLibrary(cudaLibrary(found))
    file = found
  }
  return binding
}

/** The CUDA plug-in: SMOE_CUDA_LIBRARY, else the one beside the addon; '' when there is none. It is not loaded here. */
function cudaLibrary(addon: string): string {
  const override = process.env.SMOE_CUDA_LIBRARY
  if (override !== undefined && override !== '') return path.resolve(override)
  const name = process.platform === 'win32' ? 'smoe_cuda.dll' : 'smoe_cuda.so'
  const beside = path.join(path.dirname(addon), name)
  return fs.existsSync(beside) ? beside : ''
}

/** Path of the loaded addon; undefined before the first use. */
export function nativeFile(): string | undefined {
  return file
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
    throw unavailable('no binary was found', error)
  }
}

function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report as { excludeNetwork?: boolean; getReport(): unknown }
  report.excludeNetwork = true // the report would otherwise look up host names
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header?.glibcVersionRuntime === undefined ? 'musl' : `glibc ${header.glibcVersionRuntime}`
}

function unavailable(why: string, cause: unknown): SmoeError {
  const override = process.env.SMOE_NATIVE
  const message = [
    `smoe has no native addon for ${platformText()} (node ${process.version}): ${why}.`,
    'Looked for:',
    ...(override ? [`  - ${path.resolve(override)} (SMOE_NATIVE)`] : []),
    `  - ${path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)}/*.node`,
    `  - ${path.join(root, 'build', 'Release')}/*.node`,
    'What to do:',
    '  - see what is missing:              npx smoe doctor',
    '  - build it here (C++17 compiler, CMake): npm rebuild smoe --build-from-source',
    '  - install scripts were skipped (--ignore-scripts, pnpm): allow them for smoe, or run the rebuild above',
  ].join('\n')
  return new SmoeError('ERR_SMOE_NATIVE_UNAVAILABLE', message, { cause })
}
