import { SmoeError, describe } from './errors'

export function invalidSpec(message: string): SmoeError {
  return new SmoeError('ERR_SMOE_INVALID_SPEC', message)
}

/** Reads the fields of one object of a spec strictly: what nobody asked for is refused by name. */
export class SpecReader {
  readonly #fields: ReadonlyMap<string, unknown>
  readonly #seen = new Set<string>()

  constructor(
    readonly path: string,
    value: unknown,
  ) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) {
      throw invalidSpec(`${path} must be an object, got ${describe(value)}`)
    }
    this.#fields = new Map(Object.entries(value))
  }

  get(name: string): unknown {
    this.#seen.add(name)
    return this.#fields.get(name)
  }

  oneOf<const T extends string>(name: string, allowed: readonly T[], fallback?: T): T {
    const value = this.get(name)
    if (value === undefined && fallback !== undefined) return fallback
    if (allowed.includes(value as T)) return value as T
    const list = allowed.map((item) => `'${item}'`).join(', ')
    throw invalidSpec(
      `${this.path}.${name} must be one of ${list}: this version knows no other; got ${describe(value)}`,
    )
  }

  number(name: string, fallback?: number): number {
    const value = this.get(name)
    if (value === undefined && fallback !== undefined) return fallback
    if (typeof value === 'number' && Number.isFinite(value)) return value
    throw invalidSpec(`${this.path}.${name} must be a finite number, got ${describe(value)}`)
  }

  integer(name: string, min: number): number {
    const value = this.get(name)
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value < 2 ** 31)
      return value
    throw invalidSpec(`${this.path}.${name} must be an integer of at least ${min}, got ${describe(value)}`)
  }

  /** Call last: fields that were not read are not supported. Absent ones, null and {} do no harm. */
  finish(): void {
    for (const [name, value] of this.#fields) {
      if (this.#seen.has(name) || isEmpty(value)) continue
      const known = [...this.#seen].map((item) => `'${item}'`).join(', ')
      throw invalidSpec(
        `${this.path}.${name} is not supported in this version; ${this.path} may have ${known || 'no fields'}`,
      )
    }
  }
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true
  return typeof value === 'object' && !ArrayBuffer.isView(value) && Object.keys(value).length === 0
}
