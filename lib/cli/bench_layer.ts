import { performance } from 'node:perf_hooks'
import type { Ceilings, PrecisionName } from '../../binding'
import { MoeLayer } from '../layer/moe_layer'
import { abortable, native } from '../native'
import { Router } from '../router/router'
import type { RouterSpec } from '../router/spec'
import type { Tensor } from '../tensor/tensor'
import { type Shape, randomTensor } from './bench_shapes'
import { lastLevelCache } from './system'

export interface LayerBenchOptions {
  shape: Shape
  format: 'bf16' | 'f32'
  precision: PrecisionName
  tokens: readonly number[]
  rounds: number
  signal: AbortSignal
  progress: (text: string) => void
}

export interface LayerResult {
  tokens: number
  /** Median over all calls, in seconds. */
  seconds: number
  best: number
  tokensPerSecond: number
  /** Different experts per call, mean over the inputs. */
  distinctExperts: number
  /** Weights that a call must read once: its distinct experts and the router. */
  bytes: number
  flops: number
  gigabytesPerSecond: number
  gigaflopsPerSecond: number
  /** What the slower of memory and arithmetic allows, in seconds. */
  roofline: number
  boundBy: 'memory' | 'cache' | 'arithmetic'
  /** roofline / seconds: 1 is the ceiling. */
  ratio: number
  ceilings: Ceilings
}

const INPUTS = 8 // different inputs, so that the routing moves from call to call
const VARIANTS = 3 // different weights, repeated over the experts; every expert has memory of its own

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function routerSpec(shape: Shape): RouterSpec {
  return {
    score: { act: 'softmax' },
    select: { kind: 'topK', k: shape.topK },
    weigh: shape.normalised ? { norm: {} } : {},
  }
}

/** A layer of random weights, and its router matrix. */
export async function createLayer(
  shape: Shape,
  format: 'bf16' | 'f32',
  precision: PrecisionName,
  signal: AbortSignal,
): Promise<{ layer: MoeLayer; routerWeight: Tensor }> {
  const { hidden, inter, experts } = shape
  const variants = Array.from({ length: Math.min(VARIANTS, experts) }, (_, i) => ({
    gate: randomTensor([inter, hidden], format, Math.sqrt(3 / hidden), 3 * i + 1),
    up: randomTensor([inter, hidden], format, Math.sqrt(3 / hidden), 3 * i + 2),
    down: randomTensor([hidden, inter], format, Math.sqrt(3 / inter), 3 * i + 3),
  }))
  const routerWeight = randomTensor([experts, hidden], 'f32', 0.1, 1000)
  const layer = await MoeLayer.create({
    router: routerSpec(shape),
    routerWeight,
    experts: Array.from({ length: experts }, (_, e) => variants[e % variants.length]!),
    precision,
    signal,
  })
  return { layer, routerWeight }
}

const measureCeilings = (signal: AbortSignal): Promise<Ceilings> =>
  abortable(signal, (cancel) => native().measureCeilings(native().runtimeInfo().threads, cancel))

/** The better of two measurements of the same machine, figure by figure. */
function best(a: Ceilings, b: Ceilings): Ceilings {
  return {
    threads: a.threads,
    dramReadGBs: Math.max(a.dramReadGBs, b.dramReadGBs),
    l3ReadGBs: Math.max(a.l3ReadGBs, b.l3ReadGBs),
    fmaGflops: Math.max(a.fmaGflops, b.fmaGflops),
    bf16Gflops: Math.max(a.bf16Gflops, b.bf16Gflops),
    int8Gops: Math.max(a.int8Gops, b.int8Gops),
  }
}

function summarise(
  { shape, format, precision }: LayerBenchOptions,
  tokens: number,
  seconds: number[],
  distinctExperts: number,
  ceilings: Ceilings,
): LayerResult {
  const { hidden, inter, experts, topK } = shape
  const expertBytes = 3 * hidden * inter * (format === 'bf16' ? 2 : 4)
  const bytes = distinctExperts * expertBytes + experts * hidden * 4
  const flops = tokens * (topK * 6 * hidden * inter + 2 * experts * hidden)
  // A layer that fits into the last-level cache is read from there.
  const cached = experts * expertBytes <= (lastLevelCache() ?? 0)
  const memory = bytes / ((cached ? ceilings.l3ReadGBs : ceilings.dramReadGBs) * 1e9)
  const peak = format === 'bf16' && precision === 'fast' ? ceilings.bf16Gflops : ceilings.fmaGflops
  const arithmetic = flops / (peak * 1e9)
  const roofline = Math.max(memory, arithmetic)
  const time = median(seconds)
  return {
    tokens,
    seconds: time,
    best: Math.min(...seconds),
    tokensPerSecond: tokens / time,
    distinctExperts,
    bytes,
    flops,
    gigabytesPerSecond: bytes / time / 1e9,
    gigaflopsPerSecond: flops / time / 1e9,
    roofline,
    boundBy: arithmetic > memory ? 'arithmetic' : cached ? 'cache' : 'memory',
    ratio: roofline / time,
    ceilings,
  }
}

/** Times one layer for every number of tokens, with the machine's ceilings measured before and after each. */
export async function benchLayer(
  options: LayerBenchOptions,
): Promise<{ results: LayerResult[]; layerBytes: number }> {
  const { shape, signal, progress } = options
  progress(`packing ${shape.name}`)
  const { layer, routerWeight } = await createLayer(shape, options.format, options.precision, signal)
  const router = new Router(routerSpec(shape), { weight: routerWeight })
  const layerBytes = layer.memoryUsage().native
  const results: LayerResult[] = []
  try {
    progress('measuring ceilings')
    let before = await measureCeilings(signal)
    for (const tokens of options.tokens) {
      const inputs = Array.from({ length: INPUTS }, (_, i) =>
        randomTensor([tokens, shape.hidden], 'f32', 1.7, 77 + i),
      )
      let distinct = 0
      for (const input of inputs) {
        distinct += new Set((await router.route(input, { signal })).ids.data()).size / INPUTS
        await layer.forward(input, { signal }) // warm-up
      }
      const seconds: number[] = []
      for (let round = 0; round < options.rounds; round++) {
        progress(`${shape.name}, ${tokens} tokens, round ${round + 1} of ${options.rounds}`)
        for (const input of inputs) {
          const begin = performance.now()
          await layer.forward(input, { signal })
          seconds.push((performance.now() - begin) / 1e3)
        }
      }
      const after = await measureCeilings(signal)
      results.push(summarise(options, tokens, seconds, distinct, best(before, after)))
      before = after
    }
  } finally {
    router.dispose()
    layer.dispose()
  }
  return { results, layerBytes }
}
