import type { Decoder, KvCache, NativeExpertBits } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import { readArchitecture } from '../checkpoint/describe'
import { type DeviceName, deviceIndex, deviceName } from '../device'
import { SmoeError } from '../errors'
import { type Precision, checkActivations, checkPrecision } from '../layer/description'
import { type LayerExpertBits, checkLayerBits } from '../layer/options'
import { type ExpertStats, expertStats } from '../layer/stats'
import { abortable, guarded, native } from '../native'
import { Tensor } from '../tensor/tensor'
import { checkBoolean, checkInteger, checkOneOf, checkOptions, checkSignal, checkString } from '../validate'
import { type GenerateOptions, type TokenIds, checkGenerate, checkIds, checkProgress } from './arguments'
import { Detokenizer } from './detokenizer'
import { loadDecoder } from './load'
import { loadFormats } from './on_the_fly'
import type { GeneratedToken, MoeModelLoadOptions, PerplexityOptions } from './options'
import { type PerplexityResult, windowedPerplexity } from './perplexity'
import { Tokenizer } from './tokenizer'
import { type ModelTrace, toLayerTrace } from './trace'

/** A decoder-only language model with MoE layers, loaded from a Hugging Face checkpoint folder. */
export class MoeModel {
  readonly dir: string
  readonly device: DeviceName
  readonly precision: Precision
  readonly contextLength: number
  /** V */
  readonly vocab: number
  /** H */
  readonly hidden: number
  readonly modelType: string
  /** tokens that end a text */
  readonly eosTokens: readonly number[]
  readonly #decoder: Decoder
  readonly #moeLayers: readonly number[]
  readonly #caches = new Set<KvCache>()
  #tokenizer: Tokenizer | undefined
  #disposed = false

  private constructor(
    dir: string,
    architecture: Architecture,
    decoder: Decoder,
    precision: Precision,
    contextLength: number,
  ) {
    this.dir = dir
    this.device = deviceName(decoder.device)
    this.precision = precision
    this.contextLength = contextLength
    this.vocab = architecture.vocab
    this.hidden = architecture.hidden
    this.modelType = architecture.modelType
    this.eosTokens = architecture.eos
    this.#decoder = decoder
    this.#moeLayers = architecture.layers.flatMap((plan, i) => (plan.moe === undefined ? [] : [i]))
  }

  /**
   * Loads config.json and the safetensors of a folder and packs the weights, off the JavaScript thread.
   * @throws SmoeError ERR_SMOE_FILE_NOT_FOUND, ERR_SMOE_INVALID_CONFIG, ERR_SMOE_UNSUPPORTED_ARCHITECTURE,
   * ERR_SMOE_INVALID_SAFETENSORS, ERR_SMOE_MISSING_TENSOR, ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_DEVICE_UNAVAILABLE
   */
  static async load(dir: string, options?: MoeModelLoadOptions): Promise<MoeModel> {
    checkString('dir', dir)
    const given = checkOptions('options', options)
    const device = deviceIndex(given.device)
    const precision = checkPrecision(given.precision)
    const activations = checkActivations(given.activations)
    const format = given.format === undefined ? undefined : checkOneOf('format', given.format, loadFormats)
    const signal = checkSignal(given.signal)
    const onProgress = checkProgress(given.onProgress)
    signal?.throwIfAborted()
    const architecture = readArchitecture(dir)
    const { maxPositions } = architecture
    const contextLength = checkInteger('contextLength', given.contextLength ?? maxPositions, 1, maxPositions)
    const decoder = await loadDecoder(dir, architecture, {
      precision,
      activations,
      device,
      format,
      signal,
      onProgress,
    })
    return new MoeModel(dir, architecture, decoder, precision, contextLength)
  }

  /** Logits f32 [T, V] of every position of a text that starts with ids[0]. */
  async forward(
    ids: TokenIds,
    options?: { expertBits?: LayerExpertBits; signal?: AbortSignal },
  ): Promise<Tensor<'f32'>> {
    const given = checkOptions('options', options)
    const signal = checkSignal(given.signal)
    const tokens = this.#checkText('ids', ids)
    const bits = this.#bits(given.expertBits)
    const logits = await abortable(signal, (cancel) =>
      this.#decoder.forward(tokens, undefined, 'all', cancel, bits),
    )
    return Tensor.wrap(logits, [tokens.length, this.vocab], 'f32')
  }

  /**
   * Continues a prompt token by token. An end token (the model's, or one of stopTokens) ends it and is not given out.
   * It also ends when maxNewTokens are out or the context is full. Leaving the loop early frees the KV cache.
   * @param prompt text, or token ids
   * @throws SmoeError ERR_SMOE_CONTEXT_OVERFLOW when the prompt does not fit the context; ERR_SMOE_TOKEN_OUT_OF_RANGE
   */
  async *generate(
    prompt: string | TokenIds,
    options?: GenerateOptions,
  ): AsyncGenerator<GeneratedToken, void, undefined> {
    const given = checkOptions('options', options)
    const plan = checkGenerate(given, this.eosTokens)
    this.#checkAlive()
    const bits = this.#bits(given.expertBits)
    let next = this.#checkText('prompt', await this.#toIds('prompt', prompt, true, plan.signal))
    // The last new token is given out but never fed back, so it needs no position.
    const room = this.contextLength - next.length + 1
    const tokenizer = this.#tokenizerIfAny()
    const detokenizer = tokenizer === undefined ? undefined : new Detokenizer(tokenizer, next)
    const cache = guarded(() => new (native().KvCache)(this.#decoder, this.contextLength))
    this.#caches.add(cache)
    try {
      for (let count = Math.min(plan.maxNewTokens, room); count > 0; count--) {
        const input = next
        const id = await abortable(plan.signal, (cancel) =>
          this.#decoder.step(input, cache, plan.sampling, cancel, bits),
        )
        if (plan.stop.has(id)) return
        yield { id, text: detokenizer?.push(id) ?? '' }
        this.#checkAlive()
        next = Int32Array.of(id)
      }
    } finally {
      this.#caches.delete(cache)
      cache.dispose()
    }
  }

  /**
   * Perplexity of a text over non-overlapping windows of `context` tokens: each window starts from nothing and counts
   * `context` predictions, the last of which is the first token of the next window. An incomplete window is dropped.
   * Text is encoded without special tokens.
   * @throws SmoeError ERR_SMOE_TOKENIZER_UNAVAILABLE for text, ERR_SMOE_TOKEN_OUT_OF_RANGE, ERR_SMOE_DISPOSED; RangeError for a
   * text without one whole window
   */
  async perplexity(text: string | TokenIds, options?: PerplexityOptions): Promise<PerplexityResult> {
    const given = checkOptions('options', options)
    const signal = checkSignal(given.signal)
    const onProgress = checkProgress(given.onProgress)
    const context = checkInteger('context', given.context ?? this.contextLength, 1, this.contextLength)
    const limit =
      given.limitTokens === undefined ? Infinity : checkInteger('limitTokens', given.limitTokens, 1)
    this.#checkAlive()
    const bits = this.#bits(given.expertBits)
    const ids = checkIds('text', await this.#toIds('text', text, false, signal), this.vocab)
    return windowedPerplexity(this.#decoder, ids, context, limit, signal, onProgress, bits)
  }

  /**
   * Runs a forward pass and keeps what every MoE layer saw and did.
   * @throws SmoeError ERR_SMOE_TOKEN_OUT_OF_RANGE, ERR_SMOE_CONTEXT_OVERFLOW, ERR_SMOE_OUT_OF_MEMORY, ERR_SMOE_DISPOSED
   */
  async trace(ids: TokenIds, options?: { signal?: AbortSignal }): Promise<ModelTrace> {
    const signal = checkSignal(checkOptions('options', options).signal)
    const tokens = this.#checkText('ids', ids)
    const { logits, layers } = await abortable(signal, (cancel) => this.#decoder.trace(tokens, cancel))
    return {
      logits: Tensor.wrap(logits, [tokens.length, this.vocab], 'f32'),
      layers: layers.map((layer) => toLayerTrace(layer, tokens.length, this.hidden)),
    }
  }

  /**
   * Token ids of a text; long texts are encoded in a worker thread.
   * @throws SmoeError ERR_SMOE_TOKENIZER_UNAVAILABLE
   */
  async encode(
    text: string,
    options?: { addSpecialTokens?: boolean; signal?: AbortSignal },
  ): Promise<Int32Array> {
    checkString('text', text)
    const { addSpecialTokens = true, signal } = checkOptions('options', options)
    return this.#requireTokenizer().encode(
      text,
      checkBoolean('addSpecialTokens', addSpecialTokens),
      checkSignal(signal),
    )
  }

  /** Text of token ids. */
  decode(ids: TokenIds, options?: { skipSpecialTokens?: boolean }): string {
    const { skipSpecialTokens = false } = checkOptions('options', options)
    if ((ids as TokenIds | undefined)?.length === 0) return ''
    const list = Array.from(checkIds('ids', ids, this.vocab))
    return this.#requireTokenizer().decode(list, checkBoolean('skipSpecialTokens', skipSpecialTokens))
  }

  /** How the load is spread over the experts, per MoE layer. */
  stats(): ({ layer: number } & ExpertStats)[] {
    this.#checkAlive()
    return this.#decoder.counts().map((counts, i) => ({ layer: this.#moeLayers[i]!, ...expertStats(counts) }))
  }

  resetStats(): void {
    this.#checkAlive()
    this.#decoder.resetStats()
  }

  /**
   * Bytes of packed weights, of the KV caches of running generations, and of what a GPU keeps between calls (scratch: it
   * grows to what the longest call needed; 0 on the CPU, where the calls of a process share theirs); and the sum of all,
   * as far as it lies in host memory outside the JavaScript heap (native), and on the GPU (device).
   */
  memoryUsage(): { weights: number; kvCaches: number; scratch: number; native: number; device: number } {
    if (this.#disposed) return { weights: 0, kvCaches: 0, scratch: 0, native: 0, device: 0 }
    const { bytes, deviceBytes, deviceScratch } = this.#decoder
    const caches = [...this.#caches]
    const onHost = caches.reduce((total, cache) => total + cache.bytes, 0)
    const onDevice = caches.reduce((total, cache) => total + cache.deviceBytes, 0)
    return {
      weights: bytes + deviceBytes,
      kvCaches: onHost + onDevice,
      scratch: deviceScratch,
      native: bytes + onHost,
      device: deviceBytes + onDevice + deviceScratch,
    }
  }

  /** Frees the weights; calls that run finish first. Idempotent. */
  dispose(): void {
    this.#disposed = true
    this.#decoder.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #checkAlive(): void {
    if (this.#disposed) throw new SmoeError('ERR_SMOE_DISPOSED', 'model was used after dispose()')
  }

  #bits(bits: LayerExpertBits | undefined): NativeExpertBits | undefined {
    if (bits === undefined) return undefined
    return checkLayerBits(
      bits,
      this.#decoder.counts().map(({ length }) => length),
    )
  }

  /** Ids of one text that must fit the context. */
  #checkText(name: string, value: unknown): Int32Array {
    this.#checkAlive()
    const ids = checkIds(name, value, this.vocab)
    if (ids.length > this.contextLength) {
      throw new SmoeError(
        'ERR_SMOE_CONTEXT_OVERFLOW',
        `${name} must have at most contextLength (${this.contextLength}) tokens, got ${ids.length}`,
      )
    }
    return ids
  }

  async #toIds(
    name: string,
    value: string | TokenIds,
    addSpecialTokens: boolean,
    signal: AbortSignal | undefined,
  ): Promise<TokenIds> {
    this.#checkAlive()
    if (typeof value !== 'string') return checkIds(name, value, this.vocab)
    return this.#requireTokenizer().encode(value, addSpecialTokens, signal)
  }

  #requireTokenizer(): Tokenizer {
    this.#tokenizer ??= Tokenizer.open(this.dir)
    return this.#tokenizer
  }

  #tokenizerIfAny(): Tokenizer | undefined {
    try {
      return this.#requireTokenizer()
    } catch (error) {
      if ((error as SmoeError).code === 'ERR_SMOE_TOKENIZER_UNAVAILABLE') return undefined
      throw error
    }
  }
}
