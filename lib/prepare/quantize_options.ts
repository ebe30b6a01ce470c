import type { NativeQuantizeOptions } from '../../binding'
import { rangeError, typeError } from '../errors'
import {
  checkBoolean,
  checkFunction,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkSignal,
} from '../validate'

/** Formats that the quantizers make. */
export const quantizeFormats = ['w8', 'w4', 'w3', 'w2', 'w1', 't2', 't5'] as const
export type QuantizeFormat = (typeof quantizeFormats)[number]

/** How codes and scales are found; all but the first two need no or some text to calibrate on. */
export const quantizeMethods = ['rtn', 'mse', 'hqq', 'gptq'] as const
export type QuantizeMethod = (typeof quantizeMethods)[number]

export interface QuantizeProgress {
  phase: 'calibrate' | 'measure' | 'quantize' | 'write'
  done: number
  total: number
}

export interface QuantizeOptions {
  /** one format for all routed experts; default 'w4' when `bits` is not given */
  format?: QuantizeFormat
  /** mean bits per weight of a mix of w2, w3 and w4 (below 2: of w1, w2 and w3), scales not counted; needs calibration text */
  bits?: number
  /** default 'gptq' with calibration text, else 'mse' */
  method?: QuantizeMethod
  /** weights per scale; default 64 (w8: 128), ternary: one scale per row */
  group?: number
  /** default true; false stores a zero point per group (hqq: always) */
  symmetric?: boolean
  /** text, or token ids, to calibrate on: never the text that quality is measured on */
  calibration?: string | Int32Array
  /** most tokens of it; default 32768 */
  calibrationTokens?: number
  /** tokens per calibration window; default 256, at most the model's context */
  calibrationContext?: number
  /**
   * an expert that got a smaller share of the calibration tokens than this is quantized without them (scale search) and
   * reported; default 0.005
   */
  leastShare?: number
  signal?: AbortSignal
  onProgress?: (progress: QuantizeProgress) => void
}

export interface QuantizeSettings {
  format: QuantizeFormat
  bits: number | undefined
  method: QuantizeMethod
  group: number | undefined
  symmetric: boolean
  calibration: string | Int32Array | undefined
  calibrationTokens: number
  calibrationContext: number
  leastShare: number
  signal: AbortSignal | undefined
  onProgress: (progress: QuantizeProgress) => void
}

export function checkQuantizeOptions(given: QuantizeOptions | undefined): QuantizeSettings {
  const options = checkOptions('options', given)
  const { calibration, bits, format = 'w4', onProgress } = options
  if (calibration !== undefined && typeof calibration !== 'string' && !(calibration instanceof Int32Array))
    throw typeError('calibration', 'text or an Int32Array of token ids', calibration)
  const fallback = calibration === undefined ? 'mse' : 'gptq'
  const method = checkOneOf('method', options.method ?? fallback, quantizeMethods)
  if (method === 'gptq' && calibration === undefined)
    throw typeError('calibration', "text or token ids for method 'gptq'", calibration)
  if (bits !== undefined) {
    checkNumber('bits', bits, 1, 4)
    if (options.format !== undefined) throw rangeError('format', 'absent when bits is given', format)
    if (calibration === undefined)
      throw typeError('calibration', 'text or token ids when bits is given', calibration)
    if (method === 'hqq') throw rangeError('method', "not 'hqq' when bits is given", method)
  }
  if (options.group !== undefined) checkInteger('group', options.group, 1)
  if (onProgress !== undefined) checkFunction('onProgress', onProgress)
  const symmetric = checkBoolean('symmetric', options.symmetric ?? method !== 'hqq')
  if (method === 'hqq' && symmetric) throw rangeError('symmetric', "false for method 'hqq'", symmetric)
  return {
    format: checkOneOf('format', format, quantizeFormats),
    bits,
    method,
    group: options.group,
    symmetric,
    calibration,
    calibrationTokens: checkInteger('calibrationTokens', options.calibrationTokens ?? 32768, 1),
    calibrationContext: checkInteger('calibrationContext', options.calibrationContext ?? 256, 1),
    leastShare: checkNumber('leastShare', options.leastShare ?? 0.005, 0, 1),
    signal: checkSignal(options.signal),
    onProgress: onProgress ?? (() => undefined),
  }
}

/** What the addon is asked for, for one format of a mix or the one format of all. */
export function nativeOptions(
  settings: Pick<QuantizeSettings, 'group' | 'symmetric'>,
  format: QuantizeFormat,
  method: QuantizeMethod,
): NativeQuantizeOptions {
  const ternary = format === 't2' || format === 't5'
  const group = settings.group ?? (ternary ? 0 : format === 'w8' ? 128 : 64)
  // Ternary and one bit have no asymmetric form; in a mix the other formats keep theirs.
  const symmetric = settings.symmetric || ternary || format === 'w1'
  return { format, method: symmetric && method === 'hqq' ? 'mse' : method, group, symmetric }
}
