import path from 'node:path'
import type { CudaDevice, CudaInfo, CudaProblem } from '../binding'
import { SmoeError, codeOf, fromNative, rangeError, typeError } from './errors'
import { buildCommand, native, nativeFile } from './native'

/** Where layers and models run. 'auto' takes the first usable GPU, else the CPU; 'cuda' is 'cuda:0'. */
export type Device = 'cpu' | 'auto' | 'cuda' | `cuda:${number}`
/** Where a layer or a model is. */
export type DeviceName = 'cpu' | `cuda:${number}`

/** One device as `devices()` reports it. */
export interface DeviceInfo {
  /** as `device` options take it */
  device: string
  available: boolean
  /** Why it can or cannot be used. */
  why: string
  /** What to do about a device that cannot be used. */
  fix?: string
  /** of a GPU */
  name?: string
  computeCapability?: string
  /** bytes */
  memory?: number
  memoryFree?: number
}

export const hostDevice = -1
const automatic = -2
export const deviceNames = `'cpu', 'auto', 'cuda' or 'cuda:N'`
const cuda = /^cuda(?::(\d{1,4}))?$/

/** Whether a text names a device, be it there or not. */
export const isDevice = (text: string): text is Device => text === 'cpu' || text === 'auto' || cuda.test(text)

/** Every device of this machine, and why each can or cannot be used here. The first look at a GPU takes its time. */
export async function devices(): Promise<DeviceInfo[]> {
  return [{ device: 'cpu', available: true, why: 'always available' }, ...cudaDevices(await cudaInfo())]
}

/** What the CUDA backend finds, on all devices or on one. */
export async function cudaInfo(device?: number): Promise<CudaInfo> {
  try {
    return await native().cudaInfo(device)
  } catch (error) {
    throw fromNative(error)
  }
}

/** The GPUs, or one entry that says why there is none to use. */
export function cudaDevices(info: CudaInfo): DeviceInfo[] {
  if (info.problem !== undefined || info.devices.length === 0) {
    const problem = info.problem ?? 'device'
    const why = info.why ?? 'there is no CUDA device'
    return [{ device: 'cuda', available: false, why, fix: cudaFix(problem, info) }]
  }
  return info.devices.map((device) => describeCuda(device, info))
}

function describeCuda(device: CudaDevice, info: CudaInfo): DeviceInfo {
  const { name, computeCapability, memory, memoryFree, problem } = device
  const known = name === '' ? {} : { name, computeCapability, memory, memoryFree }
  const common = { device: `cuda:${device.index}`, ...known }
  if (problem === undefined) {
    return { ...common, available: true, why: info.kind === 'cuda' ? 'usable' : 'an emulation, for tests' }
  }
  return { ...common, available: false, why: device.why ?? problem, fix: cudaFix(problem, info) }
}

/** CUDA's way to write a version: 13000 is 13.0. */
export const cudaVersion = (version: number): string =>
  `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`

function libraryFix(plugin: string): string {
  if (process.env.SMOE_CUDA_LIBRARY) {
    return 'set SMOE_CUDA_LIBRARY to a CUDA backend of this release, or unset it'
  }
  // Prebuilt binaries come together; a plug-in for an addon that was built here has to be built here as well.
  const folder = path.dirname(nativeFile() ?? '')
  const prebuilt = plugin !== '' && path.dirname(plugin) === folder && path.basename(folder) !== 'Release'
  if (prebuilt) return 'install smoe again, so that addon and plug-in are of one release'
  return `${buildCommand({ cuda: true })}, with CMake 3.22, a C++17 compiler and nvcc installed`
}

function cudaFix(problem: CudaProblem, info: CudaInfo): string {
  switch (problem) {
    case 'library':
      return libraryFix(info.path)
    case 'driver':
      return `install an NVIDIA driver for CUDA ${cudaVersion(info.runtime)} or newer`
    case 'device':
      return 'make a GPU visible to this process (CUDA_VISIBLE_DEVICES; --gpus of a container)'
    case 'capability':
      return 'use a GPU of compute capability 8.0 or newer'
    case 'lost':
      return 'start this process again; the kernel log (dmesg) may say why the GPU failed'
    case 'failed':
      return 'see whether nvidia-smi works, and whether another process holds the GPU'
  }
}

/**
 * Runs a native call that opens a device. Where that device cannot be used, its error says why and what to do as
 * `devices()` says it: the addon knows neither how it was installed nor what devices() asks the system.
 */
export async function openingDevice<T>(device: number, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    if (device < 0 || codeOf(error) !== 'ERR_SMOE_DEVICE_UNAVAILABLE') throw error
    const text = await whyUnusable(device).catch(() => undefined)
    if (text === undefined) throw error
    throw new SmoeError('ERR_SMOE_DEVICE_UNAVAILABLE', text, { cause: error })
  }
}

/** undefined when devices() has nothing against this device: one that is not there beside others, for example. */
async function whyUnusable(index: number): Promise<string | undefined> {
  const info = await cudaInfo(index)
  if (info.problem === undefined && info.count > 0 && index >= info.count) return undefined
  const [found] = cudaDevices(info)
  if (found === undefined || found.available) return undefined
  return `CUDA device ${index} cannot be used: ${found.why}; ${found.fix}; or use device "cpu"`
}

/**
 * A `device` option as the addon takes it, which resolves 'auto' by itself. SMOE_DEVICE says what 'auto' and no device
 * mean in this process.
 */
export function deviceIndex(device: unknown): number {
  const given = device ?? 'auto'
  if (typeof given !== 'string') throw typeError('device', deviceNames, device)
  return (given === 'auto' ? presetDevice() : undefined) ?? parse('device', given)
}

/** What SMOE_DEVICE says, as deviceIndex() gives it. */
export function presetDevice(): number | undefined {
  const preset = process.env.SMOE_DEVICE
  return preset === undefined || preset === '' ? undefined : parse('SMOE_DEVICE', preset)
}

function parse(name: string, device: string): number {
  if (device === 'cpu') return hostDevice
  if (device === 'auto') return automatic
  const index = cuda.exec(device)
  if (index === null) throw rangeError(name, deviceNames, device)
  return Number(index[1] ?? 0)
}

/** The other way round. */
export const deviceName = (index: number): DeviceName => (index < 0 ? 'cpu' : `cuda:${index}`)

/** Where tensors can be: in host memory. Layers and models on a GPU copy what they are given. */
export function checkHostDevice(device: unknown): void {
  if (deviceIndex(device) < 0) return
  throw new SmoeError(
    'ERR_SMOE_DEVICE_UNAVAILABLE',
    `tensors stay in host memory, they cannot go to '${String(device)}': layers and models on a GPU copy what they are given`,
  )
}
