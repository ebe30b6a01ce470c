import type { ActivationName, NativeMomentumSpec } from '../../binding'
import type { RouterSpec } from '../router/spec'
import type { ConfigReader } from './config'
import type { QuantizationScheme } from './quantized/scheme'
import type { Rope } from './rope'

/** Names of the tensors of one feed-forward, and its width I. */
export interface FeedForwardNames {
  gate: string
  up: string
  down: string
  width: number
}

/** Experts of a layer: one set of names each, or fused over all (transformers 5: gate and up half-split). */
export interface MoePlan {
  experts: number
  width: number
  router: RouterSpec
  /** candidates for the router's [E, H]: the first that the checkpoint has */
  routerWeight: string[]
  expert: (index: number) => FeedForwardNames
  /** [E, 2I, H] and [E, H, I], used when the checkpoint has them */
  fused?: { gateUp: string; down: string }
  shared?: FeedForwardNames & { sigmoidGate?: string }
}

export interface LayerPlan {
  prefix: string
  moe?: MoePlan
  dense?: FeedForwardNames
  /** sliding window in tokens, itself included */
  window?: number
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
  /** biases of q, k, v and of o */
  attentionBias: { qkv: boolean; o: boolean }
  clipQkv?: number
  layers: LayerPlan[]
  momentum?: NativeMomentumSpec
  /** what quantization_config says */
  quantization?: QuantizationScheme
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
  layer: (index: number) => Omit<LayerPlan, 'prefix'>
}
