import type * as Binding from '../../binding'
import { expertSource, multiply, runExpert, runMoe, tensor, tinyMoe, expert } from './helpers'

/** A decoder of one dense and one MoE layer, and the same in plain double precision. */
export const V = 30
export const H = 24
const heads = 4
const kvHeads = 2
const headDim = 8

const ones = tensor([H], 900, 1)
const norm: Binding.NativeNorm = { kind: 'rms', eps: 1e-5, weight: ones.source }
const invFreq = Float32Array.from({ length: headDim / 2 }, (_, i) => 100 ** (-i / (headDim / 2)))

const embedding = tensor([V, H], 901, 1)
const moe = tinyMoe(H, 20, 5, 2, 700)
const dense = expert(H, 28, 800)
const projections = [0, 1].map((i) => ({
  q: tensor([heads * headDim, H], 910 + 10 * i),
  k: tensor([kvHeads * headDim, H], 911 + 10 * i),
  v: tensor([kvHeads * headDim, H], 912 + 10 * i),
  o: tensor([H, heads * headDim], 913 + 10 * i),
}))

export const head: Binding.NativeDecoderHead = {
  vocab: V,
  hidden: H,
  embedding: embedding.source,
  finalNorm: norm,
}
export const layers: Binding.NativeDecoderLayer[] = projections.map(({ q, k, v, o }, i) => ({
  attentionNorm: norm,
  ffnNorm: norm,
  attention: {
    heads,
    kvHeads,
    headDim,
    qkNorm: 'none',
    qkNormEps: 1e-5,
    scale: headDim ** -0.5,
    invFreq,
    q: q.source,
    k: k.source,
    v: v.source,
    o: o.source,
  },
  ...(i === 0 ? { dense: { ...expertSource(dense), activation: 'silu' as const } } : { moe: moe.desc }),
}))

function rmsNorm(x: number[]): number[] {
  const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / H + 1e-5)
  return x.map((value, i) => value * scale * ones.data[i]!)
}

function rotate(vector: number[], position: number): number[] {
  const out = vector.slice()
  for (let start = 0; start < vector.length; start += headDim) {
    for (let i = 0; i < headDim / 2; i++) {
      const [a, b] = [vector[start + i]!, vector[start + i + headDim / 2]!]
      const angle = position * invFreq[i]!
      out[start + i] = a * Math.cos(angle) - b * Math.sin(angle)
      out[start + i + headDim / 2] = b * Math.cos(angle) + a * Math.sin(angle)
    }
  }
  return out
}

function attention(weights: (typeof projections)[0], inputs: number[][]): number[][] {
  const q = inputs.map((x, t) => rotate(multiply(weights.q, x), t))
  const k = inputs.map((x, t) => rotate(multiply(weights.k, x), t))
  const v = inputs.map((x) => multiply(weights.v, x))
  return inputs.map((_, t) => {
    const mixed: number[] = []
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor(h / (heads / kvHeads)) * headDim
      const scores = k.slice(0, t + 1).map((key) => {
        let sum = 0
        for (let i = 0; i < headDim; i++) sum += q[t]![h * headDim + i]! * key[kv + i]!
        return Math.exp(sum * headDim ** -0.5)
      })
      const total = scores.reduce((a, b) => a + b)
      for (let i = 0; i < headDim; i++) {
        mixed.push(scores.reduce((sum, score, j) => sum + (score / total) * v[j]![kv + i]!, 0))
      }
    }
    return multiply(weights.o, mixed)
  })
}

/** Logits [T][V]. */
export function referenceLogits(ids: readonly number[]): number[][] {
  const add = (a: number[], b: number[]) => a.map((value, i) => value + b[i]!)
  let x = ids.map((id) => [...embedding.data.subarray(id * H, (id + 1) * H)])
  projections.forEach((weights, i) => {
    const mixed = attention(weights, x.map(rmsNorm))
    x = x.map((row, t) => add(row, mixed[t]!))
    x = x.map((row) => add(row, i === 0 ? runExpert(dense, rmsNorm(row)) : runMoe(moe, rmsNorm(row))))
  })
  return x.map((row) => multiply(embedding, rmsNorm(row)))
}
