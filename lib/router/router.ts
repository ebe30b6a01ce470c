import type { NativeRouterConfig, NativeRouting, Router as NativeRouter } from '../../binding'
import { SmoeError, rangeError } from '../errors'
import { abortable, guarded, native } from '../native'
import { invalidSpec } from '../spec_reader'
import { weightSource } from '../tensor/source'
import { Tensor, checkFloatTensor, checkShaped } from '../tensor/tensor'
import { checkOptions, checkSignal, shapeText } from '../validate'
import { type RouterPlan, configFor, planRouter } from './config'
import type { RouterSpec } from './spec'

/** Weights of a linear router. */
export interface RouterWeights {
  /** [E, H] f32, f16 or bf16; copied */
  weight: Tensor
  /** [E], added to the logits */
  bias?: Tensor
}

/** The universal assignment form: what routing hands to dispatch. Unused slots have id -1 and weight 0. */
export interface Routing {
  /** i32 [T, K], by falling key; ids of one row are distinct */
  ids: Tensor<'i32'>
  /** f32 [T, K] */
  weights: Tensor<'f32'>
  /** i32 [T]: slots in use */
  count: Tensor<'i32'>
  /** f32 [T, E], when the router computed them itself */
  logits?: Tensor<'f32'>
}

export interface RouteOptions {
  signal?: AbortSignal
}

/** Chooses experts for each token. With weights it takes hidden states [T, H], without it takes logits [T, E]. */
export class Router {
  readonly spec: RouterSpec
  readonly #plan: RouterPlan
  readonly #native: NativeRouter | undefined
  readonly #hidden: number = 0
  #config: NativeRouterConfig | undefined
  #disposed = false

  /**
   * @throws SmoeError ERR_SMOE_INVALID_SPEC for a spec that this version cannot run, ERR_SMOE_SHAPE_MISMATCH
   */
  constructor(spec: RouterSpec, weights?: RouterWeights) {
    this.#plan = planRouter(spec)
    this.spec = spec
    const { weight, bias } = checkOptions('weights', weights)
    if (weight === undefined) {
      if (this.#plan.affinity === 'linear') {
        throw invalidSpec(`spec.affinity.kind 'linear' needs weights: new Router(spec, { weight })`)
      }
      return
    }
    if (this.#plan.affinity === 'external') {
      throw invalidSpec(`spec.affinity.kind 'external' takes logits: it cannot have weights`)
    }
    const [experts, hidden] = checkShaped('weight', weight, [-1, -1]).shape as [number, number]
    const config = configFor(this.#plan, experts)
    const logitBias = bias === undefined ? undefined : checkShaped('bias', bias, [experts]).toF32Array()
    this.#hidden = hidden
    this.#config = config
    this.#native = guarded(() => new (native().Router)(config, weightSource('weight', weight), logitBias))
  }

  /**
   * Assigns experts to T tokens, off the JavaScript thread.
   * @param input hidden states [T, H] when the router has weights, else logits [T, E]; copied before the call returns
   * @throws SmoeError ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_DTYPE_MISMATCH, ERR_SMOE_DISPOSED
   */
  async route(input: Tensor, options?: RouteOptions): Promise<Routing> {
    const signal = checkSignal(checkOptions('options', options).signal)
    this.#checkAlive()
    if (this.#native !== undefined) {
      const router = this.#native
      const hidden = checkShaped('hidden', input, [-1, this.#hidden])
      const tokens = hidden.shape[0]!
      const data = hidden.data()
      return toRouting(
        await abortable(signal, (cancel) => router.route(data, hidden.dtype, tokens, cancel)),
        tokens,
      )
    }
    const { logits, tokens, config } = this.#checkLogits(input)
    return toRouting(
      await abortable(signal, (cancel) => native().route(config, logits, tokens, cancel)),
      tokens,
    )
  }

  /** As route(), on the calling thread; for logits and few tokens. */
  routeSync(input: Tensor): Routing {
    this.#checkAlive()
    if (this.#native !== undefined) {
      throw rangeError('routeSync', 'called on a router without weights', 'a router with weights')
    }
    const { logits, tokens, config } = this.#checkLogits(input)
    return toRouting(
      guarded(() => native().routeSync(config, logits, tokens)),
      tokens,
    )
  }

  /** Frees the weights. Idempotent. */
  dispose(): void {
    this.#disposed = true
    this.#native?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #checkAlive(): void {
    if (this.#disposed) throw new SmoeError('ERR_SMOE_DISPOSED', 'router was used after dispose()')
  }

  #checkLogits(input: Tensor): { logits: Float32Array; tokens: number; config: NativeRouterConfig } {
    const tensor = checkFloatTensor('logits', input)
    const [tokens, experts] = tensor.shape
    if (tensor.shape.length !== 2 || experts === 0) {
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `logits must have shape [T, E], got ${shapeText(tensor.shape)} (a router without weights takes logits)`,
      )
    }
    if (this.#config?.experts !== experts) this.#config = configFor(this.#plan, experts!)
    return { logits: tensor.toF32Array(), tokens: tokens!, config: this.#config! }
  }
}

function toRouting(result: NativeRouting, tokens: number): Routing {
  const slots = tokens === 0 ? 0 : result.ids.length / tokens
  const routing: Routing = {
    ids: Tensor.wrap(result.ids, [tokens, slots], 'i32'),
    weights: Tensor.wrap(result.weights, [tokens, slots], 'f32'),
    count: Tensor.wrap(result.count, [tokens], 'i32'),
  }
  if (result.logits !== undefined) {
    const experts = tokens === 0 ? 0 : result.logits.length / tokens
    routing.logits = Tensor.wrap(result.logits, [tokens, experts], 'f32')
  }
  return routing
}
