import type { MoeForwardOptions, NativeExpertBits } from '../../binding'
import type { Device } from '../device'
import { SmoeError, rangeError, typeError } from '../errors'
import type { MomentumState } from '../momentum/state'
import type { Router, Routing } from '../router/router'
import { Tensor, checkShaped } from '../tensor/tensor'
import { checkInteger, shapeText } from '../validate'
import type { Activations, MoeLayerDescription, Precision } from './description'

export interface MoeLayerOptions {
  /** default 'fast' */
  precision?: Precision
  /** default 'auto' */
  activations?: Activations
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

/** One number for all experts, or one per expert. */
export type ExpertBits = number | ArrayLike<number>

/** One number for the whole model, or one entry per MoE layer. */
export type LayerExpertBits = number | readonly ExpertBits[]

export interface ForwardSyncOptions {
  /** momentum state of this pass up the depth; the result is then the residual stream */
  state?: MomentumState
  /** the residual stream x [T, H]; with state but without residual, hidden itself is the stream */
  residual?: Tensor
  /** given assignments instead of the layer's own router */
  routing?: Pick<Routing, 'ids' | 'weights'>
  /**
   * Bits per weight, 2 to 8, at which bit-nested experts (format 'wn') are read in this call: one number for all, or one
   * per expert. Fewer bits read fewer bytes of the same weights; experts of other formats are not concerned. Default:
   * all planes. (D2MoE, arXiv 2504.15299)
   */
  expertBits?: ExpertBits
  /** where to put the result: [T, H], dtype of hidden */
  out?: Tensor
}

export interface ForwardOptions extends ForwardSyncOptions {
  /** another router with weights, asked instead of the layer's own */
  router?: Router
  signal?: AbortSignal
}

/** [experts] bits as the addon takes them. */
export function checkExpertBits(name: string, bits: ExpertBits, experts: number): Uint8Array {
  if (typeof bits === 'number') {
    checkInteger(name, bits, 2, 8)
    return new Uint8Array(experts).fill(bits)
  }
  if (typeof bits !== 'object' || bits === null || typeof bits.length !== 'number') {
    throw typeError(name, `a number or ${experts} numbers`, bits)
  }
  if (bits.length !== experts)
    throw rangeError(`${name}.length`, `${experts}, the number of experts`, bits.length)
  return Uint8Array.from({ length: experts }, (_, i) => {
    checkInteger(`${name}[${i}]`, bits[i], 2, 8)
    return bits[i]!
  })
}

/** The same for a whole model: one number, or one entry per MoE layer. experts: their number, layer by layer. */
export function checkLayerBits(bits: LayerExpertBits, experts: readonly number[]): NativeExpertBits {
  if (typeof bits === 'number') return checkInteger('expertBits', bits, 2, 8)
  if (!Array.isArray(bits))
    throw typeError('expertBits', 'a number, or an array with one entry per MoE layer', bits)
  const layers = bits as readonly ExpertBits[]
  if (layers.length !== experts.length) {
    throw rangeError('expertBits.length', `${experts.length}, the number of MoE layers`, layers.length)
  }
  return layers.map((entry, i) => checkExpertBits(`expertBits[${i}]`, entry, experts[i]!))
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
