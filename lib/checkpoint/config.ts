import path from 'node:path'
import { SmoeError, describe, describeKind } from '../errors'
import { readJson } from './file_source'

/** Reads config.json of a checkpoint folder. */
export function readConfig(dir: string): ConfigReader {
  const value = readJson(dir, 'config.json', 'ERR_SMOE_INVALID_CONFIG')
  const file = path.join(dir, 'config.json')
  if (value === undefined) throw new SmoeError('ERR_SMOE_FILE_NOT_FOUND', `${file} does not exist`)
  return new ConfigReader(value, file)
}

/**
 * Typed access to the fields of a config.json. Several names may stand for one field, because transformers 4 and 5
 * differ; null counts as absent. Wrong values are ERR_SMOE_INVALID_CONFIG naming file, field and value.
 */
export class ConfigReader {
  readonly #fields: ReadonlyMap<string, unknown>

  constructor(
    value: unknown,
    readonly file: string,
  ) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new SmoeError(
        'ERR_SMOE_INVALID_CONFIG',
        `${file} must hold a JSON object, got ${describeKind(value)}`,
      )
    }
    this.#fields = new Map(Object.entries(value))
  }

  /** The value of the first of `names` that is there, or undefined. */
  raw(...names: string[]): unknown {
    for (const name of names) {
      const value = this.#fields.get(name)
      if (value !== undefined && value !== null) return value
    }
    return undefined
  }

  /** Names of the fields that are there. */
  names(): string[] {
    return [...this.#fields.keys()]
  }

  fail(name: string, expected: string, value: unknown): SmoeError {
    return new SmoeError(
      'ERR_SMOE_INVALID_CONFIG',
      `${name} in ${this.file} must be ${expected}, got ${describe(value)}`,
    )
  }

  /** A size: a positive integer that fits 31 bits. */
  size(names: string | string[], fallback?: number): number {
    return this.#value(names, fallback, 'a positive integer', (value) => isCount(value) && value > 0)
  }

  count(names: string | string[], fallback?: number): number {
    return this.#value(names, fallback, 'a non-negative integer', isCount)
  }

  number(names: string | string[], fallback?: number): number {
    // Kernels work in f32, where a larger number is infinite.
    return this.#value(names, fallback, 'a finite number', (value) => Number.isFinite(value) && inF32(value))
  }

  nonNegative(name: string, fallback: number): number {
    const value = this.number(name, fallback)
    if (value < 0) throw this.fail(name, 'a number of at least 0', value)
    return value
  }

  positive(name: string, fallback?: number): number {
    const value = this.number(name, fallback)
    if (value <= 0) throw this.fail(name, 'above 0', value)
    return value
  }

  boolean(name: string, fallback?: boolean): boolean {
    return this.#value(name, fallback, 'a boolean', (value) => typeof value === 'boolean')
  }

  string(name: string, fallback?: string): string {
    return this.#value(name, fallback, 'a string', (value) => typeof value === 'string')
  }

  counts(name: string, fallback: number[]): number[] {
    return this.#value(
      name,
      fallback,
      'a list of non-negative integers',
      (value) => Array.isArray(value) && value.every(isCount),
    )
  }

  object(...names: string[]): ConfigReader | undefined {
    const value = this.raw(...names)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || Array.isArray(value)) throw this.fail(names[0]!, 'an object', value)
    return new ConfigReader(value, `${names[0]} of ${this.file}`)
  }

  #value<T>(
    names: string | string[],
    fallback: T | undefined,
    expected: string,
    ok: (value: unknown) => boolean,
  ): T {
    const list = [names].flat()
    const value = this.raw(...list)
    if (value === undefined && fallback !== undefined) return fallback
    if (!ok(value)) throw this.fail(list.join(' or '), expected, value)
    return value as T
  }
}

const inF32 = (value: unknown): boolean => Number.isFinite(Math.fround(value as number))

function isCount(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31
}

export function unsupported(message: string): SmoeError {
  return new SmoeError('ERR_SMOE_UNSUPPORTED_ARCHITECTURE', message)
}
