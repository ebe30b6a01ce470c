import { SmoeError, describe } from '../errors'

/**
 * How one layer routes: the wire form of the routing pipeline affinity -> score -> key -> select -> weigh. Plain data,
 * so that it can stand in a JSON file. Kinds that this version cannot run are refused by name.
 */
export interface RouterSpec {
  /** 'linear': logits = hidden W^T + b, with the weight given to Router or MoeLayer. 'external': logits come in. */
  affinity?: { kind: 'linear' | 'external' }
  /** Scores from logits [T, E]. */
  score: { act: ScoreActivation }
  /** Changes selection only, never weights: key = score + modelBias. */
  key?: { modelBias?: readonly number[] | Float32Array }
  select: TopKSelect | GroupTopKSelect
  weigh?: Weigh
  /** Capacity limits: none in this version. */
  capacity?: null
}

export type ScoreActivation = 'identity' | 'softmax' | 'sigmoid'

/** The k experts of largest key; ties go to the lower id. */
export interface TopKSelect {
  kind: 'topK'
  k: number
}

/** The k largest keys among the Kg best of G equal groups of experts (DeepSeek-V2 and V3). */
export interface GroupTopKSelect {
  kind: 'groupTopK'
  k: number
  /** groups; divides the number of experts */
  G: number
  /** groups kept */
  Kg: number
  /** score of a group: its best key, or the sum of its two best */
  reduce: 'max' | 'sum2'
  /** key of experts in groups that were not kept */
  fill: '-inf' | 0
}

/** Weights of the selected experts. */
export interface Weigh {
  /** default 'score' */
  source?: 'score' | 'logit'
  /** applied over the selected; default 'none' */
  post?: 'none' | 'softmax' | 'sigmoid'
  /** Without null experts there is nothing to keep or lose. */
  nullRule?: 'keep'
  /** Divide by the L_p norm of the selected weights; absent or null: do not. */
  norm?: null | WeighNorm
  /** factor on every weight, default 1 */
  scale?: number
  /** the weight multiplies the expert's output (default) or its input (Llama-4) */
  point?: 'w_out' | 'w_in'
}

export interface WeighNorm {
  /** default 1 */
  p?: number
  /**
   * ['none'], ['add', e] (norm + e), ['clampMin', e] (at least e) or ['zeroSafe'] (zero weights stay zero); default
   * ['none']
   */
  eps?: readonly ['none' | 'zeroSafe'] | readonly ['add' | 'clampMin', number]
  /** before or after capacity: the same while there is no capacity */
  phase?: 'before' | 'after'
}

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
