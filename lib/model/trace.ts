import type { NativeLayerTrace } from '../../binding'
import { Tensor } from '../tensor/tensor'

/** What one MoE layer did in a forward pass over T tokens; f32 unless said. */
export interface LayerTrace {
  /** index over all decoder layers */
  layer: number
  /** `[T, H]`: input of router and experts, after the norm (and momentum's look-ahead) */
  input: Tensor<'f32'>
  /** `[T, H]`: residual stream before the step */
  residualIn: Tensor<'f32'>
  /** [T, E] */
  routerLogits: Tensor<'f32'>
  /** i32 [T, K], -1 for unused slots */
  ids: Tensor<'i32'>
  /** [T, K] */
  weights: Tensor<'f32'>
  /** i32 [T] */
  count: Tensor<'i32'>
  /** `[T, H]`: the MoE output, before the residual */
  output: Tensor<'f32'>
  /** [T, H] */
  residualOut: Tensor<'f32'>
  /** `[T, H]`: momentum's m after the layer; absent without momentum */
  momentumOut?: Tensor<'f32'>
}

export interface ModelTrace {
  /** [T, V] */
  logits: Tensor<'f32'>
  /** MoE layers, by depth */
  layers: LayerTrace[]
}

export function toLayerTrace(native: NativeLayerTrace, tokens: number, hidden: number): LayerTrace {
  const rows = (data: Float32Array, width: number) => Tensor.wrap(data, [tokens, width], 'f32')
  const trace: LayerTrace = {
    layer: native.layer,
    input: rows(native.input, hidden),
    residualIn: rows(native.residualIn, hidden),
    routerLogits: rows(native.routerLogits, native.experts),
    ids: Tensor.wrap(native.ids, [tokens, native.slots], 'i32'),
    weights: rows(native.weights, native.slots),
    count: Tensor.wrap(native.count, [tokens], 'i32'),
    output: rows(native.output, hidden),
    residualOut: rows(native.residualOut, hidden),
  }
  if (native.momentumOut !== undefined) trace.momentumOut = rows(native.momentumOut, hidden)
  return trace
}
