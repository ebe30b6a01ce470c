import { performance } from 'node:perf_hooks'
import type { PrecisionName } from '../../binding'
import type { Device } from '../device'
import type { MoeLayer } from '../layer/moe_layer'
import type { Tensor } from '../tensor/tensor'
import { createLayer, median } from './bench_layer'
import { type Shape, randomTensor, shapes } from './bench_shapes'

export interface Overhead {
  layer: string
  /** Medians per call of one token, in seconds. */
  forwardSync: number
  forward: number
  /** What the promise and the change of thread add. */
  asyncExtra: number
}

// So little arithmetic that its forwardSync is the cost of a call: checks, copies, routing of two experts, dispatch.
const empty: Shape = {
  name: 'empty (H=16, I=16, E=2, K=1)',
  hidden: 16,
  inter: 16,
  experts: 2,
  topK: 1,
  normalised: true,
}

const CALLS = 400

async function timeLayer(
  layer: MoeLayer,
  input: Tensor,
  signal: AbortSignal,
): Promise<Omit<Overhead, 'layer'>> {
  const sync: number[] = []
  const async: number[] = []
  for (let i = 0; i < 2 * CALLS; i++) {
    signal.throwIfAborted()
    const begin = performance.now()
    layer.forwardSync(input)
    const middle = performance.now()
    await layer.forward(input)
    const end = performance.now()
    if (i < CALLS) continue // warm-up
    sync.push((middle - begin) / 1e3)
    async.push((end - middle) / 1e3)
  }
  const [forwardSync, forward] = [median(sync), median(async)]
  return { forwardSync, forward, asyncExtra: forward - forwardSync }
}

/** The cost of a call beyond its kernels: one token through a layer of next to no work, and through the tiny shape. */
export async function benchOverhead(
  precision: PrecisionName,
  device: Device,
  signal: AbortSignal,
): Promise<Overhead[]> {
  const results: Overhead[] = []
  for (const shape of [empty, shapes['tiny']!]) {
    const { layer } = await createLayer(
      { shape, format: 'bf16', precision, activations: 'auto', device },
      signal,
    )
    try {
      const input = randomTensor([1, shape.hidden], 'f32', 1, 5)
      results.push({ layer: shape.name, ...(await timeLayer(layer, input, signal)) })
    } finally {
      layer.dispose()
    }
  }
  return results
}
