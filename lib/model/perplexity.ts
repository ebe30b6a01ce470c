import type { Decoder, NativeExpertBits } from '../../binding'
import { rangeError } from '../errors'
import { abortable } from '../native'

export interface PerplexityResult {
  /** predictions counted */
  tokens: number
  /** sum of -ln p over them */
  nll: number
  /** exp(nll / tokens) */
  perplexity: number
}

export interface PerplexityProgress {
  phase: 'perplexity'
  tokens: number
  total: number
}

/**
 * Negative log-likelihood over non-overlapping windows. Window w reads ids[w c .. w c + c - 1] from an empty context
 * and predicts ids[w c + 1 .. w c + c]: c predictions each, every token of the text but the first predicted exactly
 * once, the first of a window from one token. A window without all its c targets is dropped.
 */
export async function windowedPerplexity(
  decoder: Decoder,
  ids: Int32Array,
  context: number,
  limitTokens: number,
  signal: AbortSignal | undefined,
  onProgress: (progress: PerplexityProgress) => void,
  expertBits?: NativeExpertBits,
): Promise<PerplexityResult> {
  const windows = Math.min(Math.floor((ids.length - 1) / context), Math.floor(limitTokens / context))
  if (windows < 1) {
    const expected = `at least context + 1 = ${context + 1} tokens long, with limitTokens at least ${context}`
    throw rangeError('text', expected, ids)
  }
  const total = windows * context
  let nll = 0
  for (let start = 0; start < total; start += context) {
    const inputs = ids.subarray(start, start + context)
    const targets = ids.subarray(start + 1, start + context + 1)
    const losses = await abortable(signal, (cancel) => decoder.nll(inputs, targets, cancel, expertBits))
    for (const loss of losses) nll += loss
    onProgress({ phase: 'perplexity', tokens: start + context, total })
  }
  return { tokens: total, nll, perplexity: Math.exp(nll / total) }
}
