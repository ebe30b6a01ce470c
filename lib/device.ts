import { SmoeError, rangeError, typeError } from './errors'

/** Where tensors and layers live. 'auto' takes the best one there is. */
export type Device = 'cpu' | 'auto' | `cuda:${number}`

/** One device as `devices()` reports it. */
export interface DeviceInfo {
  device: string
  available: boolean
  /** Why it can or cannot be used. */
  why: string
}

const noCuda = 'this build has no CUDA backend'

/** Every kind of device this package knows, and why each can or cannot be used here. */
export function devices(): DeviceInfo[] {
  return [
    { device: 'cpu', available: true, why: 'always available' },
    { device: 'cuda', available: false, why: noCuda },
  ]
}

/**
 * The device that a request means here. A named device that cannot be used is an error, never a silent fall-back.
 * @throws SmoeError ERR_SMOE_DEVICE_UNAVAILABLE
 */
export function resolveDevice(device: unknown): 'cpu' {
  if (device === undefined || device === 'cpu' || device === 'auto') return 'cpu'
  if (typeof device !== 'string') throw typeError('device', `'cpu', 'auto' or 'cuda:N'`, device)
  if (/^cuda(:\d+)?$/.test(device)) {
    throw new SmoeError(
      'ERR_SMOE_DEVICE_UNAVAILABLE',
      `device '${device}' cannot be used: ${noCuda}; use 'cpu' or 'auto'`,
    )
  }
  throw rangeError('device', `'cpu', 'auto' or 'cuda:N'`, device)
}
