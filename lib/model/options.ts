import type { Device } from '../device'
import type { Precision } from '../layer/description'
import type { LoadProgress } from './load'
import type { PerplexityProgress } from './perplexity'

export interface MoeModelLoadOptions {
  /** default 'auto' */
  device?: Device
  /** 'fast' (default): bf16 activations over bf16 weights; 'exact': f32 activations */
  precision?: Precision
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
  signal?: AbortSignal
  onProgress?: (progress: PerplexityProgress) => void
}

/** One generated token; text is '' while a character is incomplete, or when the model has no tokenizer. */
export interface GeneratedToken {
  id: number
  text: string
}
