import type { RouterSpec } from '../../router/spec'
import type { FeedForwardNames, FusedExperts } from '../architecture'

/** Decoder layers of every family here. */
export function layerPrefix(index: number): string {
  return `model.layers.${index}.`
}

/** gate_proj, up_proj and down_proj below `prefix`. */
export function projections(prefix: string, width: number): FeedForwardNames {
  return {
    gate: `${prefix}gate_proj.weight`,
    up: `${prefix}up_proj.weight`,
    down: `${prefix}down_proj.weight`,
    width,
  }
}

/** Names under which transformers 5 keeps the experts of a layer fused: [E, 2I, H] (gate rows first) and [E, H, I]. */
export function fusedNames(prefix: string): FusedExperts {
  return {
    layout: 'halves',
    gateUp: `${prefix}mlp.experts.gate_up_proj`,
    down: `${prefix}mlp.experts.down_proj`,
  }
}

/** softmax over all experts, the k largest, divided by their sum or not. */
export function softmaxTopK(k: number, normalise: boolean): RouterSpec {
  return {
    score: { act: 'softmax' },
    select: { kind: 'topK', k },
    weigh: normalise ? { norm: { p: 1 } } : {},
  }
}
