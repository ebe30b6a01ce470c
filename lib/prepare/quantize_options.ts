import type { NativeQuantizeOptions } from '../../binding'
import { rangeError, typeError } from '../errors'
import { type Codebook, codebooks } from '../layer/description'
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
export const quantizeFormats = ['w8', 'w4', 'w4c', 'w3', 'w2', 'w1', 'wn', 't2', 't5'] as const
export type QuantizeFormat = (typeof quantizeFormats)[number]

/**
 * How codes and scales are found. 'rtn' and 'hqq' need no text, 'mse' weighs columns by it, 'gptq' and 'awq' need some;
 * 'awq' is 'mse' with `smooth: 'awq'`.
 */
export const quantizeMethods = ['rtn', 'mse', 'hqq', 'gptq', 'awq'] as const
export type QuantizeMethod = (typeof quantizeMethods)[number]
export type Rounding = Exclude<QuantizeMethod, 'awq'>

export const smoothings = ['none', 'awq', 'eaquant'] as const
export type Smoothing = (typeof smoothings)[number]

export const sharedFormats = ['keep', 'bf16', 'w8', 'w4', 'w3', 'w2', 't2'] as const
export type SharedFormat = (typeof sharedFormats)[number]

export const allocations = ['pmq', 'layer'] as const
export type AllocationKind = (typeof allocations)[number]

export const starvedPolicies = ['weights', 'layer'] as const
export type StarvedPolicy = (typeof starvedPolicies)[number]

export interface QuantizeProgress {
  phase: 'calibrate' | 'measure' | 'quantize' | 'write'
  done: number
  total: number
}

export interface QuantizeOptions {
  /** one format for all routed experts; default 'w4' when `bits` is not given */
  format?: QuantizeFormat
  /** of format 'w4c'; default 'mxfp4' */
  codebook?: Codebook
  /** of format 'wn': one-bit planes after the two base bits; default 2, at most 6 */
  planes?: number
  /** mean bits per weight of a mix of w2, w3 and w4 (below 2: of w1, w2 and w3), scales not counted; needs calibration text */
  bits?: number
  /** of a mix: 'pmq' (default) chooses for every expert, each layer within its budget; 'layer' one format per layer */
  allocate?: AllocationKind
  /** default 'gptq' with calibration text, else 'mse'; w4c: 'rtn' */
  method?: QuantizeMethod
  /**
   * scales that move from the weights' columns into what produces their inputs, which leaves the model's function as it
   * is: 'awq' by search (norm to gate and up, up to down), 'eaquant' by ranges (norm to gate and up); default 'none'
   */
  smooth?: Smoothing
  /** the router in 8 bits, clipped where it chooses experts most as before; default false: it stays as it is */
  alignRouter?: boolean
  /** shared experts: 'keep' (default) as they are, 'bf16', or a format, by scale search */
  shared?: SharedFormat
  /** weights per scale; default 64 (w8, wn: 128), where these do not divide a row, and for ternary: one scale per row */
  group?: number
  /** default true (wn: false); false stores a zero point per group (hqq: always) */
  symmetric?: boolean
  /** text, or token ids, to calibrate on: never the text that quality is measured on */
  calibration?: string | Int32Array
  /** most tokens of it; default 32768 */
  calibrationTokens?: number
  /** tokens per calibration window; default 256, at most the model's context */
  calibrationContext?: number
  /**
   * goes on reading the text until every expert got this many times its even share of calibrationTokens, or the text
   * ends (EAQuant: 2); default 0, off
   */
  balance?: number
  /** an expert that got a smaller share of the calibration tokens than this is starved; default 0.005 */
  leastShare?: number
  /**
   * what starved experts are quantized by, which is reported: 'weights' (default), the weights alone by scale search;
   * 'layer', for gate and up the inputs of the whole layer
   */
  starved?: StarvedPolicy
  signal?: AbortSignal
  onProgress?: (progress: QuantizeProgress) => void
}

export interface QuantizeSettings {
  format: QuantizeFormat
  codebook: Codebook
  planes: number
  bits: number | undefined
  allocate: AllocationKind
  method: Rounding
  smooth: Smoothing
  alignRouter: boolean
  shared: SharedFormat
  group: number | undefined
  symmetric: boolean
  calibration: string | Int32Array | undefined
  calibrationTokens: number
  calibrationContext: number
  balance: number
  leastShare: number
  starved: StarvedPolicy
  signal: AbortSignal | undefined
  onProgress: (progress: QuantizeProgress) => void
}

export function checkQuantizeOptions(given: QuantizeOptions | undefined): QuantizeSettings {
  const options = checkOptions('options', given)
  const { calibration, bits, onProgress } = options
  if (calibration !== undefined && typeof calibration !== 'string' && !(calibration instanceof Int32Array))
    throw typeError('calibration', 'text or an Int32Array of token ids', calibration)
  const format = checkOneOf('format', options.format ?? 'w4', quantizeFormats)
  const fallback = format === 'w4c' ? 'rtn' : calibration === undefined ? 'mse' : 'gptq'
  const wanted = checkOneOf('method', options.method ?? fallback, quantizeMethods)
  const method = wanted === 'awq' ? 'mse' : wanted
  const smooth = checkOneOf('smooth', options.smooth ?? (wanted === 'awq' ? 'awq' : 'none'), smoothings)
  if (wanted === 'awq' && smooth !== 'awq')
    throw rangeError('smooth', "absent or 'awq' for method 'awq'", smooth)
  const alignRouter = checkBoolean('alignRouter', options.alignRouter ?? false)
  const balance = checkNumber('balance', options.balance ?? 0, 0)
  const needs: [boolean, string][] = [
    [wanted === 'gptq' || wanted === 'awq', `for method '${wanted}'`],
    [bits !== undefined, 'when bits is given'],
    [smooth !== 'none', `for smooth '${smooth}'`],
    [alignRouter, 'for alignRouter'],
    [balance > 0, 'for balance'],
  ]
  for (const [needed, why] of needs) {
    if (needed && calibration === undefined)
      throw typeError('calibration', `text or token ids ${why}`, calibration)
  }
  if (bits !== undefined) {
    checkNumber('bits', bits, 1, 4)
    if (options.format !== undefined) throw rangeError('format', 'absent when bits is given', options.format)
    if (method === 'hqq') throw rangeError('method', "not 'hqq' when bits is given", method)
  } else if (options.allocate !== undefined) {
    throw rangeError('allocate', 'absent without bits', options.allocate)
  }
  if (options.group !== undefined) checkInteger('group', options.group, 1)
  if (onProgress !== undefined) checkFunction('onProgress', onProgress)
  const symmetric = checkBoolean('symmetric', options.symmetric ?? (method !== 'hqq' && format !== 'wn'))
  if (method === 'hqq' && symmetric) throw rangeError('symmetric', "false for method 'hqq'", symmetric)
  checkForm(options, format, method)
  if (smooth === 'awq' && (format === 'w4c' || wanted === 'hqq'))
    throw rangeError('smooth', "not 'awq' for codebooks and hqq", smooth)
  return {
    format,
    codebook: checkOneOf('codebook', options.codebook ?? 'mxfp4', codebooks),
    planes: checkInteger('planes', options.planes ?? 2, 0, 6),
    bits,
    allocate: checkOneOf('allocate', options.allocate ?? 'pmq', allocations),
    method,
    smooth,
    alignRouter,
    shared: checkOneOf('shared', options.shared ?? 'keep', sharedFormats),
    group: options.group,
    symmetric,
    calibration,
    calibrationTokens: checkInteger('calibrationTokens', options.calibrationTokens ?? 32768, 1),
    calibrationContext: checkInteger('calibrationContext', options.calibrationContext ?? 256, 1),
    balance,
    leastShare: checkNumber('leastShare', options.leastShare ?? 0.005, 0, 1),
    starved: checkOneOf('starved', options.starved ?? 'weights', starvedPolicies),
    signal: checkSignal(options.signal),
    onProgress: onProgress ?? (() => undefined),
  }
}

/** Options that only one format has, and what codebooks do not take. */
function checkForm(options: Partial<QuantizeOptions>, format: QuantizeFormat, method: Rounding): void {
  if (options.codebook !== undefined && format !== 'w4c')
    throw rangeError('codebook', "absent unless format is 'w4c'", options.codebook)
  if (options.planes !== undefined && format !== 'wn')
    throw rangeError('planes', "absent unless format is 'wn'", options.planes)
  if (format !== 'w4c') return
  if (method !== 'rtn') throw rangeError('method', "'rtn' for format 'w4c'", method)
  if (options.group !== undefined)
    throw rangeError('group', "absent for format 'w4c', whose codebooks have theirs", options.group)
}

/** What the addon is asked for, for one format of a mix or the one format of all, and rows of `cols` weights. */
export function nativeOptions(
  settings: Pick<QuantizeSettings, 'group' | 'symmetric' | 'codebook' | 'planes'>,
  format: QuantizeFormat,
  method: Rounding,
  cols: number,
): NativeQuantizeOptions {
  if (format === 'w4c') return { format, method: 'rtn', codebook: codebooks.indexOf(settings.codebook) }
  const ternary = format === 't2' || format === 't5'
  const usual = ternary ? 0 : format === 'w8' || format === 'wn' ? 128 : 64
  const group = settings.group ?? (usual > 0 && cols % usual === 0 ? usual : 0)
  // Ternary and one bit have no asymmetric form; in a mix the other formats keep theirs.
  const symmetric = settings.symmetric || ternary || format === 'w1'
  const options: NativeQuantizeOptions = {
    format,
    method: symmetric && method === 'hqq' ? 'mse' : method,
    group,
    symmetric,
  }
  if (format === 'wn') options.planes = settings.planes
  return options
}
