import type { Device } from '../device'
import type { Activations, Precision } from '../layer/description'
import type { LayerExpertBits } from '../layer/options'
import type { LoadProgress } from './load'
import type { LoadFormat } from './on_the_fly'
import type { PerplexityProgress } from './perplexity'

export interface MoeModelLoadOptions {
  /** default 'auto' */
  device?: Device
  /** 'fast' (default): bf16 activations over bf16 weights; 'exact': f32 activations */
  precision?: Precision
  /** what experts of integers are multiplied by in 'fast': default 'auto', bf16 on a CUDA device and int8 on the CPU */
  activations?: Activations
  /** brings routed experts into this format while loading, by plain rounding; default: as stored */
  format?: LoadFormat
  /** most positions of one sequence; default and limit: the model's max_position_embeddings */
  contextLength?: number
  signal?: AbortSignal
  onProgress?: (progress: LoadProgress) => void
}

export interface PerplexityOptions {
  /** tokens per window; default: the context length */
  context?: number
  /** most predictions to count; whole windows only */
  limitTokens?: number
  /** bits at which bit-nested experts (wn) are read: one number, or one entry per MoE layer; default: all planes */
  expertBits?: LayerExpertBits
  signal?: AbortSignal
  onProgress?: (progress: PerplexityProgress) => void
}

/** One generated token; text is '' while a character is incomplete, or when the model has no tokenizer. */
export interface GeneratedToken {
  id: number
  text: string
}
