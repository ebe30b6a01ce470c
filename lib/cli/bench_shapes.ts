import type { FloatDtype } from '../tensor/dtype'
import { Tensor } from '../tensor/tensor'

export interface Shape {
  name: string
  hidden: number
  inter: number
  experts: number
  topK: number
  /** Weights of the chosen experts divided by their sum. */
  normalised: boolean
}

const shape = (name: string, sizes: [number, number, number, number], normalised: boolean): Shape => {
  const [hidden, inter, experts, topK] = sizes
  return { name, hidden, inter, experts, topK, normalised }
}

/** The MoE blocks of published models, and one small enough for a cache. */
export const shapes: Readonly<Record<string, Shape>> = {
  olmoe: shape('olmoe', [2048, 1024, 64, 8], false),
  'qwen3-30b': shape('qwen3-30b', [2048, 768, 128, 8], true),
  mixtral: shape('mixtral', [4096, 14336, 8, 2], true),
  tiny: shape('tiny', [512, 512, 16, 2], true),
}

/** A small fixed generator: the same weights and inputs on every machine. */
export function randomUniform(seed: number): () => number {
  let state = seed >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 31 - 1
  }
}

/** Uniform values in [-scale, scale]. A long array repeats one block: how fast kernels run does not depend on values. */
export function randomTensor(sizes: number[], dtype: FloatDtype, scale: number, seed: number): Tensor {
  const length = sizes.reduce((product, size) => product * size, 1)
  const random = randomUniform(seed)
  const block = Float32Array.from({ length: Math.min(length, 65521) }, () => random() * scale)
  // The upper half of a float is its value in bf16, rounded towards zero: good enough for random numbers.
  const wide = new Uint16Array(block.buffer)
  const narrow = Uint16Array.from({ length: block.length }, (_, i) => wide[2 * i + 1]!)
  const data = dtype === 'f32' ? new Float32Array(length) : new Uint16Array(length)
  const values = dtype === 'f32' ? block : narrow
  for (let at = 0; at < length; at += values.length) data.set(values.subarray(0, length - at), at)
  return Tensor.from(data, sizes, dtype)
}
