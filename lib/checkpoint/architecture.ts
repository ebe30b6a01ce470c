import type { ActivationName, NativeGluParameters, NativeMomentumSpec } from '../../binding'
import type { RouterSpec } from '../router/spec'
import type { ConfigReader } from './config'
import type { Quantization } from './quantization'
import type { Rope } from './rope'

/** Names of the tensors of one feed-forward, and its width I. */
export interface FeedForwardNames {
  gate: string
  up: string
  down: string
  width: number
}

/**
 * Experts of a layer in two tensors. 'halves' (transformers 5): [E, 2I, H], gate rows first, and [E, H, I], used when
 * the checkpoint has them. 'interleaved' (gpt-oss): see experts.ts; always.
 */
export interface FusedExperts {
  layout: 'halves' | 'interleaved'
  gateUp: string
  down: string
}

/** Experts of a layer: one set of names each, or fused over all. */
export interface MoePlan {
  experts: number
  width: number
  router: RouterSpec
  /** candidates for the router's [E, H]: the first that the checkpoint has */
  routerWeight: string[]
  /** [E], added to the logits */
  routerBias?: string
  /** [E], added to the scores for the selection alone */
  selectionBias?: string
  expert: (index: number) => FeedForwardNames
  fused?: FusedExperts
  shared?: FeedForwardNames & { sigmoidGate?: string }
}

export interface LayerPlan {
  prefix: string
  moe?: MoePlan
  dense?: FeedForwardNames
  /** sliding window in tokens, itself included */
  window?: number
}

/** Multi-head latent attention; heads are nopeDim + ropeDim wide for scores and valueDim for values. */
export interface LatentPlan {
  /** 0: queries come straight from the hidden state */
  qRank: number
  kvRank: number
  nopeDim: number
  ropeDim: number
  valueDim: number
  normEps: number
  /** rotated pairs lie side by side */
  interleavedRope: boolean
}

/** What a family makes of a config.json: everything that does not need the tensors. */
export interface Architecture {
  modelType: string
  vocab: number
  hidden: number
  heads: number
  kvHeads: number
  headDim: number
  maxPositions: number
  normEps: number
  activation: ActivationName
  rope: Rope
  tied: boolean
  qkNorm: 'none' | 'per_head' | 'full'
  /** biases of q, k, v (latent attention: q_a and kv_a) and of o */
  attentionBias: { qkv: boolean; o: boolean }
  clipQkv?: number
  /** a learned score per head that takes part in the softmax */
  sinks: boolean
  latent?: LatentPlan
  /** parameters of the gated activation, where it is not plain */
  glu?: NativeGluParameters
  quantization?: Quantization
  layers: LayerPlan[]
  momentum?: NativeMomentumSpec
  /** tokens that end a text */
  eos: number[]
}

/** One architecture family: config.json in, names and sizes out. */
export interface Family {
  /** `model_type` in config.json */
  modelType: string
  read: (config: ConfigReader) => FamilyPlan
}

/** The part that differs from family to family; families/common.ts reads the rest. */
export interface FamilyPlan {
  defaultTheta: number
  defaultNormEps: number
  qkNorm: Architecture['qkNorm']
  attentionBias: Architecture['attentionBias']
  clipQkv?: number
  sinks?: boolean
  latent?: LatentPlan
  glu?: NativeGluParameters
  layer: (index: number) => Omit<LayerPlan, 'prefix'>
}

/** Elements of the KV cache per token. */
export function cacheElements({ layers, latent, kvHeads, headDim }: Architecture): number {
  return layers.length * (latent === undefined ? 2 * kvHeads * headDim : latent.kvRank + latent.ropeDim)
}
