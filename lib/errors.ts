/** Every code an error of this package can carry, in the order of native/core/error_codes.def. */
export const errorCodes = [
  'ERR_SMOE_INVALID_ARGUMENT',
  'ERR_SMOE_INVALID_TYPE',
  'ERR_SMOE_SHAPE_MISMATCH',
  'ERR_SMOE_DTYPE_MISMATCH',
  'ERR_SMOE_INVALID_SPEC',
  'ERR_SMOE_TOKEN_OUT_OF_RANGE',
  'ERR_SMOE_CONTEXT_OVERFLOW',
  'ERR_SMOE_NON_FINITE_INPUT',
  'ERR_SMOE_STATE_REUSED',
  'ERR_SMOE_DISPOSED',
  'ERR_SMOE_DETACHED_BUFFER',
  'ERR_SMOE_FILE_NOT_FOUND',
  'ERR_SMOE_FILE_READ',
  'ERR_SMOE_FILE_CHANGED',
  'ERR_SMOE_FILE_WRITE',
  'ERR_SMOE_INVALID_SAFETENSORS',
  'ERR_SMOE_MISSING_TENSOR',
  'ERR_SMOE_INVALID_CONFIG',
  'ERR_SMOE_UNSUPPORTED_ARCHITECTURE',
  'ERR_SMOE_TOKENIZER_UNAVAILABLE',
  'ERR_SMOE_DEVICE_UNAVAILABLE',
  'ERR_SMOE_DEVICE_LOST',
  'ERR_SMOE_ISA_UNAVAILABLE',
  'ERR_SMOE_NATIVE_UNAVAILABLE',
  'ERR_SMOE_INVALID_QUANTIZATION',
  'ERR_SMOE_OUT_OF_MEMORY',
  'ERR_SMOE_CANCELLED',
  'ERR_SMOE_INTERNAL',
] as const

/**
 * Stable code of an error; messages may change between releases, codes do not.
 *
 * | code | what happened |
 * | --- | --- |
 * | `ERR_SMOE_INVALID_ARGUMENT` | a value that no call accepts (RangeError in JS) |
 * | `ERR_SMOE_INVALID_TYPE` | a value of the wrong JS type (TypeError in JS) |
 * | `ERR_SMOE_SHAPE_MISMATCH` | sizes that do not agree with each other |
 * | `ERR_SMOE_DTYPE_MISMATCH` | a dtype that this place does not take |
 * | `ERR_SMOE_INVALID_SPEC` | a RouterSpec or MomentumSpec that cannot be built |
 * | `ERR_SMOE_TOKEN_OUT_OF_RANGE` | token id outside [0, vocabulary) |
 * | `ERR_SMOE_CONTEXT_OVERFLOW` | more positions than the KV cache holds |
 * | `ERR_SMOE_NON_FINITE_INPUT` | NaN or infinity where it would poison the result |
 * | `ERR_SMOE_STATE_REUSED` | momentum state used along time instead of depth |
 * | `ERR_SMOE_DISPOSED` | object used after dispose() |
 * | `ERR_SMOE_DETACHED_BUFFER` | ArrayBuffer was transferred away |
 * | `ERR_SMOE_FILE_NOT_FOUND` | a file or directory that is not there |
 * | `ERR_SMOE_FILE_READ` | the system refused to read or map a file |
 * | `ERR_SMOE_FILE_CHANGED` | a file shrank while it was mapped |
 * | `ERR_SMOE_FILE_WRITE` | the system refused to write a file |
 * | `ERR_SMOE_INVALID_SAFETENSORS` | header or index that is not safetensors |
 * | `ERR_SMOE_MISSING_TENSOR` | the checkpoint lacks a tensor that its config calls for |
 * | `ERR_SMOE_INVALID_CONFIG` | config.json missing a field or contradicting itself |
 * | `ERR_SMOE_UNSUPPORTED_ARCHITECTURE` | model_type or feature not known |
 * | `ERR_SMOE_TOKENIZER_UNAVAILABLE` | text given but no usable tokenizer.json |
 * | `ERR_SMOE_DEVICE_UNAVAILABLE` | the asked-for device cannot be used here |
 * | `ERR_SMOE_DEVICE_LOST` | the device failed and stays unusable in this process |
 * | `ERR_SMOE_ISA_UNAVAILABLE` | SMOE_ISA names an instruction set this CPU lacks |
 * | `ERR_SMOE_NATIVE_UNAVAILABLE` | no loadable binary was found |
 * | `ERR_SMOE_INVALID_QUANTIZATION` | codes, scales or groups that do not make a matrix |
 * | `ERR_SMOE_OUT_OF_MEMORY` | an allocation failed |
 * | `ERR_SMOE_CANCELLED` | internal: an aborted call rejects with the reason of its signal |
 * | `ERR_SMOE_INTERNAL` | a bug in smoe |
 */
export type ErrorCode = (typeof errorCodes)[number]

/**
 * A failure that is neither a wrong type (`TypeError`) nor a wrong value (`RangeError`). All three carry `code`.
 */
export class SmoeError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SmoeError'
    this.code = code
  }
}

/** An error with a code: what every rejected call of this package gives, except aborted ones. */
export type CodedError = Error & { readonly code: ErrorCode }

function coded<E extends Error>(error: E, code: ErrorCode): E & { readonly code: ErrorCode } {
  return Object.assign(error, { code })
}

/** `TypeError`, code ERR_SMOE_INVALID_TYPE: "NAME must be EXPECTED, got VALUE". */
export function typeError(name: string, expected: string, value: unknown): CodedError {
  return coded(new TypeError(`${name} must be ${expected}, got ${describe(value)}`), 'ERR_SMOE_INVALID_TYPE')
}

/** `RangeError`, code ERR_SMOE_INVALID_ARGUMENT: "NAME must be EXPECTED, got VALUE". */
export function rangeError(name: string, expected: string, value: unknown): CodedError {
  return coded(
    new RangeError(`${name} must be ${expected}, got ${describe(value)}`),
    'ERR_SMOE_INVALID_ARGUMENT',
  )
}

/** A value as a message shows it: short, one line, never its whole contents. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 57)}...` : value}'`
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'symbol') return value.toString()
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) {
    const plain = value.length <= 8 && value.every((item) => typeof item === 'number')
    return plain ? `[${value.join(', ')}]` : `an array of ${value.length}`
  }
  const name = (value as { constructor?: { name?: unknown } }).constructor?.name
  const kind = typeof name === 'string' && name !== '' ? name : 'object'
  if (ArrayBuffer.isView(value) && 'length' in value) return `${kind} of length ${String(value.length)}`
  return `an instance of ${kind}`
}

/** What a value is without any of it: for whole contents of files, which need not be what they should be. */
export function describeKind(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** The code of any error, or undefined. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined
  const code = (error as { code?: unknown }).code
  return typeof code === 'string' ? code : undefined
}

/**
 * Turns an error thrown by the addon into this package's classes. A cancelled call gives the signal's own reason.
 */
export function fromNative(error: unknown, signal?: AbortSignal): unknown {
  const code = codeOf(error)
  if (code === undefined || !(errorCodes as readonly string[]).includes(code)) return error
  if (code === 'ERR_SMOE_CANCELLED' && signal?.aborted === true) return signal.reason
  const message = String((error as Error).message)
  if (code === 'ERR_SMOE_INVALID_TYPE') return coded(new TypeError(message, { cause: error }), code)
  if (code === 'ERR_SMOE_INVALID_ARGUMENT') return coded(new RangeError(message, { cause: error }), code)
  return new SmoeError(code as ErrorCode, message, { cause: error })
}
