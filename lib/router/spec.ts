/**
 * How one layer routes: the wire form of the routing pipeline affinity -> score -> key -> select -> weigh. Plain data,
 * so that it can stand in a JSON file. Kinds that this version cannot run are refused by name.
 */
export interface RouterSpec {
  /** 'linear': logits = hidden W^T + b, with the weight given to Router or MoeLayer. 'external': logits come in. */
  affinity?: { kind: 'linear' | 'external' }
  /** Scores from logits [T, E]. */
  score: { act: ScoreActivation }
  /** Changes selection only, never weights: key = score + modelBias. */
  key?: { modelBias?: readonly number[] | Float32Array }
  select: TopKSelect | GroupTopKSelect
  weigh?: Weigh
  /** Capacity limits: none in this version. */
  capacity?: null
}

export type ScoreActivation = 'identity' | 'softmax' | 'sigmoid'

/** The k experts of largest key; ties go to the lower id. */
export interface TopKSelect {
  kind: 'topK'
  k: number
}

/** The k largest keys among the Kg best of G equal groups of experts (DeepSeek-V2 and V3). */
export interface GroupTopKSelect {
  kind: 'groupTopK'
  k: number
  /** groups; divides the number of experts */
  G: number
  /** groups kept */
  Kg: number
  /** score of a group: its best key, or the sum of its two best */
  reduce: 'max' | 'sum2'
  /** key of experts in groups that were not kept */
  fill: '-inf' | 0
}

/** Weights of the selected experts. */
export interface Weigh {
  /** default 'score' */
  source?: 'score' | 'logit'
  /** applied over the selected; default 'none' */
  post?: 'none' | 'softmax' | 'sigmoid'
  /** Without null experts there is nothing to keep or lose. */
  nullRule?: 'keep'
  /** Divide by the L_p norm of the selected weights; absent or null: do not. */
  norm?: null | WeighNorm
  /** factor on every weight, default 1 */
  scale?: number
  /** the weight multiplies the expert's output (default) or its input (Llama-4) */
  point?: 'w_out' | 'w_in'
}

export interface WeighNorm {
  /** default 1 */
  p?: number
  /**
   * ['none'], ['add', e] (norm + e), ['clampMin', e] (at least e) or ['zeroSafe'] (zero weights stay zero); default
   * ['none']
   */
  eps?: readonly ['none' | 'zeroSafe'] | readonly ['add' | 'clampMin', number]
  /** before or after capacity: the same while there is no capacity */
  phase?: 'before' | 'after'
}
