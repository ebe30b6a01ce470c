import type { NativeExpert } from '../../binding'
import type { FeedForwardNames, FusedExperts, MoePlan } from './architecture'
import type { Weights } from './weights'

/** Expert `index` of a layer, in whichever of the known layouts the checkpoint has it. */
export function describeExpert(weights: Weights, plan: MoePlan, index: number, hidden: number): NativeExpert {
  const { fused } = plan
  if (fused?.layout === 'interleaved') return interleaved(weights, fused, plan, index, hidden)
  if (fused !== undefined && weights.checkpoint.has(fused.gateUp)) {
    return halves(weights, fused, plan, index, hidden)
  }
  return feedForward(weights, plan.expert(index), hidden)
}

/** One matrix each: an expert, a shared expert, or a dense feed-forward. */
export function feedForward(weights: Weights, names: FeedForwardNames, hidden: number): NativeExpert {
  return {
    gate: weights.matrix(names.gate, [names.width, hidden]),
    up: weights.matrix(names.up, [names.width, hidden]),
    down: weights.matrix(names.down, [hidden, names.width]),
  }
}

/** [E, 2I, H] with all rows of the gate first, and [E, H, I]. */
function halves(weights: Weights, fused: FusedExperts, plan: MoePlan, index: number, hidden: number) {
  const { experts, width } = plan
  const matrix = (first: number) =>
    weights.part(fused.gateUp, [experts, 2 * width, hidden], [width, hidden], { first, strides: [hidden, 1] })
  const start = index * 2 * width * hidden
  return {
    gate: matrix(start),
    up: matrix(start + width * hidden),
    down: weights.part(fused.down, [experts, hidden, width], [hidden, width], {
      first: index * hidden * width,
      strides: [width, 1],
    }),
  }
}

/**
 * gpt-oss: outputs of gate and up alternate. Plain tensors are input-major, [E, H, 2I] and [E, I, H], so that the
 * matrices wanted are transposes; MXFP4 ones are output-major, [E, 2I, H] and [E, H, I].
 */
function interleaved(weights: Weights, fused: FusedExperts, plan: MoePlan, index: number, hidden: number) {
  const { experts, width } = plan
  const { gateUp, down } = fused
  const coded = weights.checkpoint.has(`${gateUp}_blocks`)
  const names = plan.expert(index)
  const quantized = (name: string, shape: [number, number]) => weights.checkpoint.quantized?.find(name, shape)
  const gate = (odd: 0 | 1) =>
    quantized(odd === 0 ? names.gate : names.up, [width, hidden]) ??
    (coded
      ? weights.mxfp4(gateUp, experts, index, [2 * width, hidden], [width, hidden], {
          first: odd * hidden,
          strides: [2 * hidden, 1],
        })
      : weights.part(gateUp, [experts, hidden, 2 * width], [width, hidden], {
          first: index * hidden * 2 * width + odd,
          strides: [2, 2 * width],
        }))
  const bias = (odd: 0 | 1) =>
    weights.part(`${gateUp}_bias`, [experts, 2 * width], [width], {
      first: index * 2 * width + odd,
      strides: [2],
    })
  const downView = coded
    ? { first: 0, strides: [width, 1] }
    : { first: index * width * hidden, strides: [1, hidden] }
  return {
    gate: gate(0),
    up: gate(1),
    down:
      quantized(names.down, [hidden, width]) ??
      (coded
        ? weights.mxfp4(down, experts, index, [hidden, width], [hidden, width], downView)
        : weights.part(down, [experts, width, hidden], [hidden, width], downView)),
    gateBias: bias(0),
    upBias: bias(1),
    downBias: weights.part(`${down}_bias`, [experts, hidden], [hidden], {
      first: index * hidden,
      strides: [1],
    }),
  }
}
