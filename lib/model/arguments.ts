import type { SamplingOptions } from '../../binding'
import type { LayerExpertBits } from '../layer/options'
import { SmoeError, rangeError, typeError } from '../errors'
import { arrayKind, checkBoolean, checkFunction, checkInteger, checkNumber, checkSignal } from '../validate'

/** Token ids as callers have them. */
export type TokenIds = readonly number[] | Int32Array | Uint32Array | Uint16Array

/** Options of MoeModel.generate. */
export interface GenerateOptions {
  /** default: as many as the context has room for */
  maxNewTokens?: number
  /** 0 (default) takes the likeliest token; above, logits are divided by it before sampling */
  temperature?: number
  /** samples among the likeliest tokens that together hold this probability, in (0, 1]; default 1 */
  topP?: number
  /** samples among this many likeliest tokens; default 0: all */
  topK?: number
  /** the draws depend on seed and position only; default 0 */
  seed?: number
  /** token ids that end the text, besides those of the model */
  stopTokens?: readonly number[]
  /** go on after the model's own end tokens; default false */
  ignoreEos?: boolean
  /** bits at which bit-nested experts (wn) are read: one number, or one entry per MoE layer; default: all planes */
  expertBits?: LayerExpertBits
  signal?: AbortSignal
}

export interface GeneratePlan {
  maxNewTokens: number
  sampling: SamplingOptions
  stop: ReadonlySet<number>
  signal: AbortSignal | undefined
}

/** Ids as the addon takes them, each a token of the vocabulary. */
export function checkIds(name: string, value: unknown, vocab: number): Int32Array {
  const kind = arrayKind(value)
  if (!Array.isArray(value) && kind !== 'Int32Array' && kind !== 'Uint32Array' && kind !== 'Uint16Array') {
    throw typeError(name, 'an array of token ids', value)
  }
  const list = value as ArrayLike<unknown>
  if (list.length === 0) throw rangeError(name, 'at least one token id', [])
  const ids = new Int32Array(list.length)
  for (let i = 0; i < ids.length; i++) {
    const id = list[i]
    if (typeof id !== 'number') throw typeError(`${name}[${i}]`, 'a number', id)
    if (!Number.isInteger(id) || id < 0 || id >= vocab) {
      throw new SmoeError(
        'ERR_SMOE_TOKEN_OUT_OF_RANGE',
        `${name}[${i}] must be a token id in [0, ${vocab}), got ${id}`,
      )
    }
    ids[i] = id
  }
  return ids
}

export function checkGenerate(options: GenerateOptions, eos: readonly number[]): GeneratePlan {
  const {
    maxNewTokens = Infinity,
    temperature = 0,
    topP = 1,
    topK = 0,
    seed = 0,
    stopTokens = [],
    ignoreEos = false,
  } = options
  if (maxNewTokens !== Infinity) checkInteger('maxNewTokens', maxNewTokens, 1)
  if (!Array.isArray(stopTokens)) throw typeError('stopTokens', 'an array of token ids', stopTokens)
  stopTokens.forEach((id, i) => checkInteger(`stopTokens[${i}]`, id, 0))
  return {
    maxNewTokens,
    sampling: {
      temperature: checkNumber('temperature', temperature, 0),
      topP: checkNumber('topP', topP, Number.MIN_VALUE, 1),
      topK: checkInteger('topK', topK, 0, 2 ** 31 - 1),
      seed: checkInteger('seed', seed, 0, 2 ** 32 - 1),
    },
    stop: new Set([...(stopTokens as number[]), ...(checkBoolean('ignoreEos', ignoreEos) ? [] : eos)]),
    signal: checkSignal(options.signal),
  }
}

export function checkProgress<T>(value: ((progress: T) => void) | undefined): (progress: T) => void {
  if (value === undefined) return () => undefined
  checkFunction('onProgress', value)
  return value
}
