import { rangeError, typeError } from './errors'

/** A plain options object; undefined counts as empty. */
export function checkOptions<T extends object>(name: string, value: T | undefined): Partial<T> {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw typeError(name, 'an object', value)
  return value
}

/** A whole number in [min, max]. */
export function checkInteger(
  name: string,
  value: unknown,
  min: number,
  max = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value !== 'number') throw typeError(name, 'a number', value)
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `in [${min}, ${max}]`
    throw rangeError(name, `an integer ${range}`, value)
  }
  return value
}

/** A finite number, in [min, max] when these are given. */
export function checkNumber(name: string, value: unknown, min = -Infinity, max = Infinity): number {
  if (typeof value !== 'number') throw typeError(name, 'a number', value)
  if (!Number.isFinite(value) || value < min || value > max) {
    const range = min === -Infinity && max === Infinity ? '' : ` in [${min}, ${max}]`
    throw rangeError(name, `a finite number${range}`, value)
  }
  return value
}

export function checkString(name: string, value: unknown): string {
  if (typeof value !== 'string') throw typeError(name, 'a string', value)
  return value
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw typeError(name, 'a boolean', value)
  return value
}

export function checkFunction(name: string, value: unknown): void {
  if (typeof value !== 'function') throw typeError(name, 'a function', value)
}

/** One of a closed list of strings. */
export function checkOneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  const list = allowed.map((item) => `'${item}'`).join(', ')
  if (typeof value !== 'string') throw typeError(name, `one of ${list}`, value)
  if (!allowed.includes(value as T)) throw rangeError(name, `one of ${list}`, value)
  return value as T
}

/** An AbortSignal, also one of another realm. */
export function checkSignal(value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined
  if (!isSignal(value)) throw typeError('signal', 'an AbortSignal', value)
  return value
}

function isSignal(value: unknown): value is AbortSignal {
  if (typeof value !== 'object' || value === null) return false
  const { aborted, addEventListener } = value as { aborted?: unknown; addEventListener?: unknown }
  return typeof aborted === 'boolean' && typeof addEventListener === 'function'
}

/** The class name of a typed array ("Float32Array"), whatever realm it comes from; undefined for anything else. */
export function arrayKind(value: unknown): string | undefined {
  if (!ArrayBuffer.isView(value)) return undefined
  return (value as unknown as { readonly [Symbol.toStringTag]?: string })[Symbol.toStringTag]
}

/** The product of the sizes of a shape; undefined when it passes what a double counts exactly. */
export function shapeProduct(shape: readonly number[]): number | undefined {
  let product = 1
  for (const size of shape) {
    product *= size
    if (!Number.isSafeInteger(product)) return undefined
  }
  return product
}

export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}
