import type * as Binding from '../../binding'
import { native } from '../../lib/native'

export const addon = native()

/** Numbers in [-scale, scale) that are the same on every run. */
export function randomNumbers(count: number, seed: number, scale = 1): Float32Array {
  let state = seed * 2654435761 + 1
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 31 - 1) * scale
  })
}

export interface Matrix {
  shape: number[]
  data: Float32Array
  source: Binding.TensorSource
}

export function tensor(shape: number[], seed: number, scale = 0.5): Matrix {
  const data = randomNumbers(
    shape.reduce((a, b) => a * b),
    seed,
    scale,
  )
  return { shape, data, source: { data, dtype: 'f32', shape } }
}

/** y = W x of a row-major [N, K] matrix, in double precision. */
export function multiply(weight: Matrix, x: ArrayLike<number>): number[] {
  const [rows, cols] = weight.shape as [number, number]
  return Array.from({ length: rows }, (_, n) => {
    let sum = 0
    for (let k = 0; k < cols; k++) sum += weight.data[n * cols + k]! * x[k]!
    return sum
  })
}

export const silu = (x: number) => x / (1 + Math.exp(-x))

export interface Expert {
  gate: Matrix
  up: Matrix
  down: Matrix
}

export function expert(hidden: number, width: number, seed: number): Expert {
  return {
    gate: tensor([width, hidden], seed),
    up: tensor([width, hidden], seed + 1),
    down: tensor([hidden, width], seed + 2),
  }
}

export const expertSource = ({ gate, up, down }: Expert): Binding.NativeExpert => ({
  gate: gate.source,
  up: up.source,
  down: down.source,
})

export function runExpert(weights: Expert, x: ArrayLike<number>): number[] {
  const up = multiply(weights.up, x)
  const hidden = multiply(weights.gate, x).map((value, i) => silu(value) * up[i]!)
  return multiply(weights.down, hidden)
}

/** softmax, then the k largest (ties to the lower id), divided by their sum. */
export function topK(logits: readonly number[], k: number): { ids: number[]; weights: number[] } {
  const most = Math.max(...logits)
  const score = logits.map((value) => Math.exp(value - most))
  const ids = [...score.keys()].sort((a, b) => score[b]! - score[a]! || a - b).slice(0, k)
  const sum = ids.reduce((total, id) => total + score[id]!, 0)
  return { ids, weights: ids.map((id) => score[id]! / sum) }
}

export interface TinyMoe {
  hidden: number
  slots: number
  router: Matrix
  experts: Expert[]
  desc: Binding.NativeMoe
}

export function tinyMoe(hidden = 24, width = 20, experts = 5, slots = 2, seed = 1): TinyMoe {
  const router = tensor([experts, hidden], seed + 1000)
  const list = Array.from({ length: experts }, (_, i) => expert(hidden, width, seed + 10 * i))
  const config: Binding.NativeRouterConfig = {
    experts,
    score: 'softmax',
    select: 'topK',
    k: slots,
    normP: 1,
  }
  return {
    hidden,
    slots,
    router,
    experts: list,
    desc: {
      hidden,
      activation: 'silu',
      router: config,
      routerWeight: router.source,
      experts: list.map(expertSource),
    },
  }
}

/** The layer's update for one row, in double precision. */
export function runMoe(moe: TinyMoe, x: ArrayLike<number>, given?: { ids: number[]; weights: number[] }) {
  const { ids, weights } = given ?? topK(multiply(moe.router, x), moe.slots)
  const out = new Array<number>(moe.hidden).fill(0)
  ids.forEach((id, slot) => {
    if (id < 0) return
    runExpert(moe.experts[id]!, x).forEach((value, i) => (out[i]! += weights[slot]! * value))
  })
  return out
}

/** Rows of a [T, H] array. */
export function rows(data: Float32Array, width: number): Float32Array[] {
  return Array.from({ length: data.length / width }, (_, i) => data.subarray(i * width, (i + 1) * width))
}

/**
 * |actual - expected| <= tolerance * max(1, |expected|) everywhere. The default allows for sums of a few hundred f32
 * products of order one: 300 roundings of 2^-24 are 2e-5.
 */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 2e-5) {
  expect(actual.length).toBe(expected.length)
  let worst = 0
  let at = 0
  for (let i = 0; i < actual.length; i++) {
    const off = Math.abs(actual[i]! - expected[i]!) / Math.max(1, Math.abs(expected[i]!))
    if (!(off <= worst)) [worst, at] = [off, i]
  }
  if (!(worst <= tolerance)) {
    throw new Error(
      `element ${at}: ${actual[at]} instead of ${expected[at]}, off by ${worst}, allowed ${tolerance}`,
    )
  }
}

/** The code that a call fails with, by exception or rejection; 'no error' if it does not. */
export async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call()
    return 'no error'
  } catch (error) {
    return String((error as { code?: unknown }).code)
  }
}

/** Transfers an array's buffer away, as postMessage with a transfer list does. */
export function detach<T extends { buffer: ArrayBufferLike }>(array: T): T {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
  return array
}
