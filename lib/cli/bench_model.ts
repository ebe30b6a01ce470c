import { performance } from 'node:perf_hooks'
import type { MoeModel } from '../model/moe_model'
import { median } from './bench_layer'
import { randomUniform } from './bench_shapes'

export interface ModelResult {
  phase: 'prefill' | 'decode'
  /** Prompt length for prefill, new tokens for decode. */
  tokens: number
  seconds: number
  tokensPerSecond: number
}

const DECODE_PROMPT = 16
const DECODE_TOKENS = 64

interface Timing {
  first: number
  /** From the first new token to the last. */
  rest: number
  count: number
}

async function timeGenerate(
  model: MoeModel,
  ids: number[],
  maxNewTokens: number,
  signal: AbortSignal,
): Promise<Timing> {
  const begin = performance.now()
  let first = 0
  let last = 0
  let count = 0
  for await (const _ of model.generate(ids, { maxNewTokens, temperature: 0, ignoreEos: true, signal })) {
    last = performance.now()
    if (count++ === 0) first = last
  }
  return { first: (first - begin) / 1e3, rest: (last - first) / 1e3, count }
}

/**
 * Prefill for each prompt length and decode of one sequence, medians over the rounds; and the prompts that were skipped
 * because the model's context is shorter.
 */
export async function benchModel(
  model: MoeModel,
  options: {
    tokens: readonly number[]
    rounds: number
    signal: AbortSignal
    progress: (text: string) => void
  },
): Promise<{ results: ModelResult[]; skipped: number[] }> {
  const { rounds, signal, progress } = options
  const random = randomUniform(9)
  const prompt = (length: number) =>
    Array.from({ length }, () => Math.floor(((random() + 1) / 2) * model.vocab))
  const results: ModelResult[] = []
  // A full context still has its first new token, which needs no position.
  const fits = (count: number) => count <= model.contextLength
  for (const tokens of options.tokens.filter(fits)) {
    progress(`prefill of ${tokens} tokens`)
    const times: number[] = []
    for (let round = -1; round < rounds; round++) {
      const { first } = await timeGenerate(model, prompt(tokens), 1, signal)
      if (round >= 0) times.push(first)
    }
    results.push({
      phase: 'prefill',
      tokens,
      seconds: median(times),
      tokensPerSecond: tokens / median(times),
    })
  }
  const start = Math.min(DECODE_PROMPT, Math.ceil(model.contextLength / 2))
  const count = Math.min(DECODE_TOKENS, model.contextLength - start)
  const times: number[] = []
  for (let round = -1; count > 1 && round < rounds; round++) {
    progress(`decode, round ${round + 2} of ${rounds + 1}`)
    const timing = await timeGenerate(model, prompt(start), count, signal)
    if (round >= 0 && timing.count > 1) times.push(timing.rest / (timing.count - 1))
  }
  if (times.length > 0) {
    results.push({
      phase: 'decode',
      tokens: count,
      seconds: median(times),
      tokensPerSecond: 1 / median(times),
    })
  }
  return { results, skipped: options.tokens.filter((count) => !fits(count)) }
}
