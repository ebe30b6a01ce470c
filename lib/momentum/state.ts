import type { MomentumState as NativeMomentumState } from '../../binding'
import { SmoeError, codeOf, typeError } from '../errors'
import { guarded, native } from '../native'
import { Tensor } from '../tensor/tensor'
import { checkInteger, checkOneOf, shapeText } from '../validate'
import { type MomentumSpec, type MomentumType, parseMomentumSpec, stateNames } from './spec'

const depthNotTime =
  'Momentum runs up the depth of the network, not along time: one state belongs to one forward pass and visits each ' +
  'MoE layer once, from the lowest to the highest. Call state.reset() before the next pass (also before the next token).'

const refusals: ReadonlySet<string> = new Set([
  'ERR_SMOE_INVALID_ARGUMENT',
  'ERR_SMOE_INVALID_TYPE',
  'ERR_SMOE_INVALID_SPEC',
  'ERR_SMOE_SHAPE_MISMATCH',
  'ERR_SMOE_DTYPE_MISMATCH',
  'ERR_SMOE_DETACHED_BUFFER',
  'ERR_SMOE_NON_FINITE_INPUT',
  'ERR_SMOE_DISPOSED',
])

/**
 * What MomentumSMoE carries from one MoE layer to the next within one forward pass: [T, H] per state tensor, f32.
 * It holds nothing of a sequence, so caches, forks and batches are unaffected by it.
 */
export class MomentumState {
  readonly tokens: number
  readonly hidden: number
  readonly type: MomentumType
  readonly #native: NativeMomentumState
  readonly #visited = new Set<object>()
  #lastIndex = -1
  #busy = false
  #broken = false
  #disposed = false

  /**
   * @param shape [T, H]: the tokens of the pass and the hidden size
   * @throws SmoeError ERR_SMOE_INVALID_SPEC
   */
  constructor(spec: MomentumSpec, shape: readonly [number, number]) {
    const parsed = parseMomentumSpec(spec)
    if (!Array.isArray(shape) || shape.length !== 2) throw typeError('shape', '[T, H]', shape)
    this.tokens = checkInteger('shape[0]', shape[0], 1, 2 ** 31 - 1)
    this.hidden = checkInteger('shape[1]', shape[1], 1, 2 ** 31 - 1)
    this.type = parsed.type
    this.#native = guarded(() => new (native().MomentumState)(parsed, this.tokens, this.hidden))
  }

  /** MoE layers applied since reset(). */
  get depth(): number {
    return this.#native.depth
  }

  /** Starts a new forward pass: the next layer finds a zero state. */
  reset(): void {
    this.#checkUsable()
    this.#native.reset()
    this.#visited.clear()
    this.#lastIndex = -1
    this.#broken = false
  }

  /**
   * A copy of a state tensor, f32 [T, H]; zeros before the first layer.
   * @param name 'm'; 'm_im' (complex); 'p', 'v' (adam)
   */
  read(name: string): Tensor<'f32'> {
    this.#checkUsable()
    checkOneOf('name', name, stateNames[this.type])
    return Tensor.wrap(
      guarded(() => this.#native.read(name)),
      [this.tokens, this.hidden],
      'f32',
    )
  }

  /** Bytes held outside the JavaScript heap. */
  memoryUsage(): { native: number } {
    return { native: this.#disposed ? 0 : this.#native.bytes }
  }

  /** Frees the memory. Idempotent. */
  dispose(): void {
    this.#disposed = true
    this.#native.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /**
   * Checks that `layer` may come next and takes the state for it.
   * @returns what undoes it: call with the error when the layer failed, with nothing when it succeeded
   * @internal
   */
  enter(layer: object, index: number | undefined, tokens: number, hidden: number): (error?: unknown) => void {
    this.#checkUsable()
    if (tokens !== this.tokens || hidden !== this.hidden) {
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `state must have shape ${shapeText([tokens, hidden])} as hidden, got ${shapeText([this.tokens, this.hidden])}`,
      )
    }
    if (this.#broken) throw reused('state was left undefined by a call that did not finish')
    if (this.#visited.has(layer)) throw reused('state was given to the same layer twice')
    if (index !== undefined && index <= this.#lastIndex) {
      throw reused(`state was given to layer ${index} after layer ${this.#lastIndex}`)
    }
    const lastIndex = this.#lastIndex
    const depth = this.#native.depth
    this.#busy = true
    this.#visited.add(layer)
    if (index !== undefined) this.#lastIndex = index
    return (error) => {
      this.#busy = false
      if (error === undefined) return
      this.#visited.delete(layer)
      this.#lastIndex = lastIndex
      // Refused arguments change nothing; a call that had begun may have written some rows.
      this.#broken = !refusals.has(codeOf(error) ?? '') || this.#native.depth !== depth
    }
  }

  /** @internal */
  get native(): NativeMomentumState {
    return this.#native
  }

  #checkUsable(): void {
    if (this.#disposed) throw new SmoeError('ERR_SMOE_DISPOSED', 'state was used after dispose()')
    if (this.#busy) throw reused('state is in use by a call that has not settled')
  }
}

function reused(what: string): SmoeError {
  return new SmoeError('ERR_SMOE_STATE_REUSED', `${what}. ${depthNotTime}`)
}
