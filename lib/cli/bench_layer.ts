import { performance } from 'node:perf_hooks'
import type { Ceilings, PrecisionName } from '../../binding'
import type { Activations, WeightFormat } from '../layer/description'
import type { Device, DeviceName } from '../device'
import { MoeLayer } from '../layer/moe_layer'
import { abortable, native } from '../native'
import { Router } from '../router/router'
import type { RouterSpec } from '../router/spec'
import type { Tensor } from '../tensor/tensor'
import { type Shape, randomTensor } from './bench_shapes'
import { lastLevelCache } from './system'

/** A layer of random weights. */
export interface LayerKind {
  shape: Shape
  format: WeightFormat
  precision: PrecisionName
  activations: Activations
  device: Device
}

export interface LayerBenchOptions extends LayerKind {
  tokens: readonly number[]
  rounds: number
  signal: AbortSignal
  progress: (text: string) => void
}

export interface LayerResult {
  tokens: number
  /** Median over all calls of forwardSync(), in seconds: the layer alone, as a model runs it within one call. */
  seconds: number
  /** Median of forward() awaited in turn with them: with the way to another thread and back. */
  awaitedSeconds: number
  best: number
  tokensPerSecond: number
  /** Different experts per call, mean over the inputs. */
  distinctExperts: number
  /** Weights that a call must read once: its distinct experts and the router. */
  bytes: number
  flops: number
  gigabytesPerSecond: number
  gigaflopsPerSecond: number
  /** What the slower of memory and arithmetic allows, in seconds; this and what follows of the CPU only. */
  roofline: number | null
  boundBy: 'memory' | 'cache' | 'arithmetic' | null
  /** roofline / seconds: 1 is the ceiling, which is the best of several laps; so this also counts what disturbed the calls. */
  ratio: number | null
  /** roofline / best of a part of the calls, in the median part: best against best. */
  bestRatio: number | null
  ceilings: Ceilings | null
}

type PartResult = Omit<LayerResult, 'awaitedSeconds'>

const INPUTS = 8 // different inputs, so that the routing moves from call to call
const LEAST_SECONDS = 0.3 // short calls are repeated beyond the rounds asked for
// A row is timed in parts with the ceilings measured between them: on a shared machine the memory's rate changes from
// second to second, and a ratio means something only against a ceiling of the same moment.
const PARTS = 4
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
  { shape, format, precision, activations, device }: LayerKind,
  signal: AbortSignal,
): Promise<{ layer: MoeLayer; routerWeight: Tensor }> {
  const { hidden, inter, experts } = shape
  const dtype = format === 'f32' ? 'f32' : 'bf16'
  const variants = Array.from({ length: Math.min(VARIANTS, experts) }, (_, i) => ({
    gate: randomTensor([inter, hidden], dtype, Math.sqrt(3 / hidden), 3 * i + 1),
    up: randomTensor([inter, hidden], dtype, Math.sqrt(3 / hidden), 3 * i + 2),
    down: randomTensor([hidden, inter], dtype, Math.sqrt(3 / inter), 3 * i + 3),
  }))
  const routerWeight = randomTensor([experts, hidden], 'f32', 0.1, 1000)
  const layer = await MoeLayer.create({
    router: routerSpec(shape),
    routerWeight,
    experts: Array.from({ length: experts }, (_, e) => ({ ...variants[e % variants.length]!, format })),
    precision,
    activations,
    device,
    signal,
  })
  return { layer, routerWeight }
}

const measureCeilings = (signal: AbortSignal): Promise<Ceilings> =>
  abortable(signal, (cancel) => native().measureCeilings(native().runtimeInfo().threads, cancel))

export const figures = [
  'dramReadGBs',
  'l3ReadGBs',
  'fmaGflops',
  'bf16Gflops',
  'int8Gops',
  'int4Gops',
] as const

/** One set of ceilings from several, figure by figure; none from none. */
function merge(all: readonly (Ceilings | null)[], pick: (values: number[]) => number): Ceilings | null {
  if (!all.every((ceilings) => ceilings !== null)) return null
  const merged = { ...all[0]! }
  for (const figure of figures) merged[figure] = pick(all.map((ceilings) => ceilings[figure]))
  return merged
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** The row of a table from its parts: the median part, figure by figure. */
function medianPart(parts: readonly PartResult[], seconds: number[], awaited: number[]): LayerResult {
  const time = median(seconds)
  const rank = ({ ratio, seconds }: PartResult) => ratio ?? -seconds
  const middle = [...parts].sort((a, b) => rank(a) - rank(b))[Math.floor(parts.length / 2)]!
  const among = (pick: (part: PartResult) => number | null): number | null => {
    const values = parts.map(pick).filter((value) => value !== null)
    return values.length === 0 ? null : median(values)
  }
  return {
    ...middle,
    seconds: time,
    best: Math.min(...seconds),
    awaitedSeconds: median(awaited),
    tokensPerSecond: middle.tokens / time,
    gigabytesPerSecond: middle.bytes / time / 1e9,
    gigaflopsPerSecond: middle.flops / time / 1e9,
    roofline: among(({ roofline }) => roofline),
    ratio: among(({ ratio }) => ratio),
    bestRatio: among(({ bestRatio }) => bestRatio),
    ceilings: merge(
      parts.map(({ ceilings }) => ceilings),
      median,
    ),
  }
}

function summarise(
  { shape, format, precision }: LayerBenchOptions,
  layerBytes: number,
  tokens: number,
  seconds: number[],
  distinctExperts: number,
  ceilings: Ceilings | null,
): PartResult {
  const { hidden, inter, experts, topK } = shape
  const routerBytes = experts * hidden * 4
  const expertBytes = (layerBytes - routerBytes) / experts // as packed, with scales
  const bytes = distinctExperts * expertBytes + routerBytes
  const flops = tokens * (topK * 6 * hidden * inter + 2 * experts * hidden)
  const time = median(seconds)
  const common = {
    tokens,
    seconds: time,
    best: Math.min(...seconds),
    tokensPerSecond: tokens / time,
    distinctExperts,
    bytes,
    flops,
    gigabytesPerSecond: bytes / time / 1e9,
    gigaflopsPerSecond: flops / time / 1e9,
  }
  if (ceilings === null) {
    return { ...common, roofline: null, boundBy: null, ratio: null, bestRatio: null, ceilings }
  }
  // A layer that fits into the last-level cache is read from there.
  const cached = experts * expertBytes <= (lastLevelCache() ?? 0)
  const memory = bytes / ((cached ? ceilings.l3ReadGBs : ceilings.dramReadGBs) * 1e9)
  const bf16 = format === 'bf16' || format === 'w4c' || format === 'f8'
  const peak =
    precision === 'exact' || format === 'f32'
      ? ceilings.fmaGflops
      : bf16
        ? ceilings.bf16Gflops
        : format === 'w8'
          ? ceilings.int8Gops
          : ceilings.int4Gops
  const arithmetic = flops / (peak * 1e9)
  const roofline = Math.max(memory, arithmetic)
  return {
    ...common,
    roofline,
    boundBy: arithmetic > memory ? 'arithmetic' : cached ? 'cache' : 'memory',
    ratio: roofline / time,
    bestRatio: roofline / common.best,
    ceilings,
  }
}

/** Times one layer for every number of tokens, in parts between which the machine's ceilings are measured. */
export async function benchLayer(
  options: LayerBenchOptions,
): Promise<{ results: LayerResult[]; layerBytes: number; device: DeviceName }> {
  const { shape, signal, progress } = options
  progress(`packing ${shape.name}`)
  const { layer, routerWeight } = await createLayer(options, signal)
  const router = new Router(routerSpec(shape), { weight: routerWeight })
  const { native: onHost, device: onDevice } = layer.memoryUsage()
  const layerBytes = onHost + onDevice
  const results: LayerResult[] = []
  try {
    // Those of the CPU say nothing about a GPU.
    const measure = () => (layer.device === 'cpu' ? measureCeilings(signal) : Promise.resolve(null))
    progress('measuring ceilings')
    let before = await measure()
    for (const tokens of options.tokens) {
      const inputs = Array.from({ length: INPUTS }, (_, i) =>
        randomTensor([tokens, shape.hidden], 'f32', 1.7, 77 + i),
      )
      let distinct = 0
      for (const input of inputs) {
        distinct += new Set((await router.route(input, { signal })).ids.data()).size / INPUTS
        await layer.forward(input, { signal }) // warm-up
      }
      const parts: PartResult[] = []
      const all: number[] = []
      const awaited: number[] = []
      for (let part = 0; part < PARTS; part++) {
        progress(`${shape.name}, ${tokens} tokens, part ${part + 1} of ${PARTS}`)
        const seconds: number[] = []
        let total = 0
        for (let round = 0; round < options.rounds / PARTS || total < LEAST_SECONDS / PARTS; round++) {
          for (const input of inputs) {
            const begin = performance.now()
            layer.forwardSync(input)
            const middle = performance.now()
            await layer.forward(input, { signal })
            const end = performance.now()
            seconds.push((middle - begin) / 1e3)
            awaited.push((end - middle) / 1e3)
            total += (end - begin) / 1e3
          }
        }
        const after = await measure()
        parts.push(summarise(options, layerBytes, tokens, seconds, distinct, merge([before, after], mean)))
        all.push(...seconds)
        before = after
      }
      results.push(medianPart(parts, all, awaited))
    }
  } finally {
    router.dispose()
    layer.dispose()
  }
  return { results, layerBytes, device: layer.device }
}
