import type { MoeForwardOptions } from '../../binding'
import type { Device } from '../device'
import { SmoeError, typeError } from '../errors'
import type { MomentumState } from '../momentum/state'
import type { Router, Routing } from '../router/router'
import { Tensor, checkShaped } from '../tensor/tensor'
import { shapeText } from '../validate'
import type { MoeLayerDescription, Precision } from './description'

export interface MoeLayerOptions {
  /** default 'fast' */
  precision?: Precision
  /** default 'auto' */
  device?: Device
  signal?: AbortSignal
}

export interface MoeLayerLoadOptions extends MoeLayerOptions {
  /** index of the decoder layer in the checkpoint, from 0 */
  layer: number
}

export interface MoeLayerCreateOptions extends MoeLayerDescription, MoeLayerOptions {
  /** place in the network's depth; a MomentumState then refuses layers out of order */
  layerIndex?: number
}

export interface ForwardSyncOptions {
  /** momentum state of this pass up the depth; the result is then the residual stream */
  state?: MomentumState
  /** the residual stream x [T, H]; with state but without residual, hidden itself is the stream */
  residual?: Tensor
  /** given assignments instead of the layer's own router */
  routing?: Pick<Routing, 'ids' | 'weights'>
  /** where to put the result: [T, H], dtype of hidden */
  out?: Tensor
}

export interface ForwardOptions extends ForwardSyncOptions {
  /** another router with weights, asked instead of the layer's own */
  router?: Router
  signal?: AbortSignal
}

/** Given assignments as the addon takes them; the addon checks the ids themselves. */
export function checkRouting(
  routing: Pick<Routing, 'ids' | 'weights'>,
  tokens: number,
): MoeForwardOptions['routing'] {
  if (typeof routing !== 'object' || routing === null) throw typeError('routing', 'a routing result', routing)
  const { ids, weights } = routing
  if (!(ids instanceof Tensor)) throw typeError('routing.ids', 'a Tensor', ids)
  if (ids.dtype !== 'i32') {
    throw new SmoeError('ERR_SMOE_DTYPE_MISMATCH', `routing.ids must be i32, got ${ids.dtype as string}`)
  }
  if (ids.shape.length !== 2 || ids.shape[0] !== tokens) {
    throw new SmoeError(
      'ERR_SMOE_SHAPE_MISMATCH',
      `routing.ids must have shape [${tokens}, K], got ${shapeText(ids.shape)}`,
    )
  }
  const slots = ids.shape[1]!
  const values = checkShaped('routing.weights', weights, [tokens, slots]).toF32Array()
  return { ids: ids.data(), weights: values, slots }
}
