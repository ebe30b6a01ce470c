import type { MoeForwardOptions, MoeLayer as NativeMoeLayer } from '../../binding'
import { describeMoe, readArchitecture } from '../checkpoint/describe'
import { openCheckpoint } from '../checkpoint/open'
import { resolvePending } from '../checkpoint/quantized/pending'
import { type DeviceName, deviceIndex, deviceName, openingDevice } from '../device'
import { SmoeError, fromNative, rangeError, typeError } from '../errors'
import { MomentumState } from '../momentum/state'
import { abortable, native } from '../native'
import { Router } from '../router/router'
import { type FloatDtype, allocate } from '../tensor/dtype'
import { Tensor, checkFloatTensor, checkShaped } from '../tensor/tensor'
import { checkInteger, checkOptions, checkSignal, checkString, shapeText } from '../validate'
import { type Precision, checkActivations, checkPrecision, describeLayer } from './description'
import {
  type ForwardOptions,
  type ForwardSyncOptions,
  type MoeLayerCreateOptions,
  type MoeLayerLoadOptions,
  checkExpertBits,
  checkRouting,
} from './options'
import { type ExpertStats, expertStats } from './stats'

/** One sparse MoE layer: route, dispatch, experts, combine, residual. */
export class MoeLayer {
  readonly hidden: number
  readonly experts: number
  /** K: most experts per token */
  readonly slots: number
  readonly device: DeviceName
  readonly precision: Precision
  readonly layerIndex: number | undefined
  readonly #native: NativeMoeLayer
  #disposed = false

  private constructor(layer: NativeMoeLayer, precision: Precision, layerIndex: number | undefined) {
    this.#native = layer
    this.hidden = layer.hidden
    this.experts = layer.expertCount
    this.slots = layer.slots
    this.device = deviceName(layer.device)
    this.precision = precision
    this.layerIndex = layerIndex
  }

  /**
   * Builds a layer from tensors and packs their weights, off the JavaScript thread.
   * @throws SmoeError ERR_SMOE_INVALID_SPEC, ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_DTYPE_MISMATCH, ERR_SMOE_INVALID_QUANTIZATION
   * for weights that a format cannot hold, ERR_SMOE_DEVICE_UNAVAILABLE, ERR_SMOE_OUT_OF_MEMORY
   */
  static async create(options: MoeLayerCreateOptions): Promise<MoeLayer> {
    if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
    const device = deviceIndex(options.device)
    const precision = checkPrecision(options.precision)
    const signal = checkSignal(options.signal)
    const activations = checkActivations(options.activations)
    const { layerIndex } = options
    if (layerIndex !== undefined) checkInteger('layerIndex', layerIndex, 0)
    const desc = { ...describeLayer(options), activations }
    const layer = await openingDevice(device, () =>
      abortable(signal, (cancel) => native().MoeLayer.create(desc, precision, cancel, device)),
    )
    return new MoeLayer(layer, precision, layerIndex)
  }

  /**
   * Loads the MoE block of one decoder layer from a checkpoint folder (config.json and safetensors).
   * @throws RangeError when that layer is dense; SmoeError ERR_SMOE_FILE_NOT_FOUND, ERR_SMOE_INVALID_CONFIG,
   * ERR_SMOE_INVALID_SAFETENSORS, ERR_SMOE_MISSING_TENSOR, ERR_SMOE_UNSUPPORTED_ARCHITECTURE
   */
  static async load(checkpointDir: string, options: MoeLayerLoadOptions): Promise<MoeLayer> {
    checkString('checkpointDir', checkpointDir)
    const given = checkOptions('options', options)
    const { layer: index } = given
    const device = deviceIndex(given.device)
    const precision = checkPrecision(given.precision)
    const activations = checkActivations(given.activations)
    const signal = checkSignal(given.signal)
    signal?.throwIfAborted()
    const architecture = readArchitecture(checkpointDir)
    checkInteger('layer', index, 0, architecture.layers.length - 1)
    if (architecture.layers[index!]!.moe === undefined) {
      const moe = architecture.layers.flatMap((plan, i) => (plan.moe === undefined ? [] : [i]))
      throw rangeError('layer', `an MoE layer (${moe.join(', ')})`, index)
    }
    const checkpoint = openCheckpoint(checkpointDir, architecture)
    try {
      const found = describeMoe(architecture, index!, checkpoint)
      const { description, release } = await resolvePending(found, signal)
      const layer = await openingDevice(device, () =>
        abortable(signal, (cancel) =>
          native().MoeLayer.create({ ...description, activations }, precision, cancel, device),
        ),
      ).finally(release)
      return new MoeLayer(layer, precision, index)
    } finally {
      checkpoint.close()
    }
  }

  /**
   * The MoE update y [T, H]; with `state` or `residual` the residual stream after this layer's step instead.
   * Runs off the JavaScript thread; inputs are copied before the call returns, `out` is filled when it settles.
   * @param hidden [T, H] f32, f16 or bf16: the (normed) input of router and experts
   * @throws SmoeError ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_STATE_REUSED, ERR_SMOE_DISPOSED
   */
  async forward<D extends FloatDtype>(hidden: Tensor<D>, options?: ForwardOptions): Promise<Tensor<D>>
  async forward(hidden: Tensor, options?: ForwardOptions): Promise<Tensor>
  async forward(hidden: Tensor, options?: ForwardOptions): Promise<Tensor> {
    const tokens = this.#checkHidden(hidden)
    const dtype = hidden.dtype as FloatDtype
    const { router, ...rest } = checkOptions('options', options)
    const signal = checkSignal(rest.signal)
    const out = rest.out === undefined ? undefined : this.#checkOut(rest.out, hidden, tokens)
    let args = this.#nativeOptions(rest, tokens)
    if (router !== undefined) {
      if (!(router instanceof Router)) throw typeError('router', 'a Router', router)
      if (rest.routing !== undefined) throw typeError('routing', 'absent when router is given', rest.routing)
      const input = Tensor.from(hidden.data().slice(), hidden.shape, hidden.dtype) // hidden may change while we wait
      const routing = await router.route(input, { signal })
      args = { ...args, ...this.#nativeOptions({ routing }, tokens) }
      hidden = input
    }
    signal?.throwIfAborted()
    const leave = rest.state?.enter(this, this.layerIndex, tokens, this.hidden)
    try {
      const result = await abortable(signal, (cancel) =>
        this.#native.forward(hidden.data() as Float32Array, dtype, tokens, out?.data() as Float32Array, {
          ...args,
          cancel,
        }),
      )
      leave?.()
      return out ?? Tensor.wrap(result, [tokens, this.hidden], dtype)
    } catch (error) {
      leave?.(error ?? new SmoeError('ERR_SMOE_INTERNAL', 'failed without a reason'))
      throw error
    }
  }

  /**
   * As forward(), on the calling thread: for worker threads and small batches, where a few microseconds count.
   * @throws as forward()
   */
  forwardSync<D extends FloatDtype>(hidden: Tensor<D>, options?: ForwardSyncOptions): Tensor<D>
  forwardSync(hidden: Tensor, options?: ForwardSyncOptions): Tensor
  forwardSync(hidden: Tensor, options?: ForwardSyncOptions): Tensor {
    const tokens = this.#checkHidden(hidden)
    const dtype = hidden.dtype as FloatDtype
    let args: MoeForwardOptions | undefined
    let out: Tensor | undefined
    let leave: ((error?: unknown) => void) | undefined
    if (options !== undefined) {
      const { state, out: given } = checkOptions('options', options)
      out = given === undefined ? undefined : this.#checkOut(given, hidden, tokens)
      args = this.#nativeOptions(options, tokens)
      leave = state?.enter(this, this.layerIndex, tokens, this.hidden)
    }
    try {
      const result = out ?? Tensor.wrap(allocate(dtype, tokens * this.hidden), [tokens, this.hidden], dtype)
      if (tokens > 0) {
        this.#native.forwardSync(
          hidden.data() as Float32Array,
          dtype,
          tokens,
          result.data() as Float32Array,
          args,
        )
      }
      leave?.()
      return result
    } catch (caught) {
      const error = fromNative(caught)
      leave?.(error)
      throw error
    }
  }

  /** How the load is spread over the experts. */
  stats(): ExpertStats {
    this.#checkAlive()
    return expertStats(this.#native.counts())
  }

  resetStats(): void {
    this.#checkAlive()
    this.#native.resetStats()
  }

  /** Bytes of packed weights: in host memory outside the JavaScript heap, and on the GPU. */
  memoryUsage(): { native: number; device: number } {
    if (this.#disposed) return { native: 0, device: 0 }
    return { native: this.#native.bytes, device: this.#native.deviceBytes }
  }

  /** Frees the weights; calls that run finish first. Idempotent. */
  dispose(): void {
    this.#disposed = true
    this.#native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #checkAlive(): void {
    if (this.#disposed) throw new SmoeError('ERR_SMOE_DISPOSED', 'layer was used after dispose()')
  }

  #checkHidden(hidden: Tensor): number {
    this.#checkAlive()
    checkFloatTensor('hidden', hidden)
    const { shape } = hidden
    if (shape.length !== 2 || shape[1] !== this.hidden) {
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `hidden must have shape [T, ${this.hidden}], got ${shapeText(shape)}`,
      )
    }
    return shape[0]!
  }

  #checkOut(out: Tensor, hidden: Tensor, tokens: number): Tensor {
    checkShaped('out', out, [tokens, this.hidden])
    if (out.dtype !== hidden.dtype) {
      throw new SmoeError(
        'ERR_SMOE_DTYPE_MISMATCH',
        `out must have the dtype of hidden, ${hidden.dtype}, got ${out.dtype}`,
      )
    }
    out.data()
    return out
  }

  #nativeOptions(options: ForwardSyncOptions, tokens: number): MoeForwardOptions {
    const { state, residual, routing, expertBits } = options
    const args: MoeForwardOptions = {}
    if (state !== undefined) {
      if (!(state instanceof MomentumState)) throw typeError('state', 'a MomentumState', state)
      args.state = state.native
    }
    if (residual !== undefined) {
      args.residual = checkShaped('residual', residual, [tokens, this.hidden]).toF32Array()
    }
    if (routing !== undefined) args.routing = checkRouting(routing, tokens)
    if (expertBits !== undefined) {
      args.expertBits = checkExpertBits('expertBits', expertBits, this.experts)
    }
    return args
  }
}
