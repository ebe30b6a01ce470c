import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { readJson } from '../checkpoint/file_source'
import { SmoeError } from '../errors'

/**
 * Above this many UTF-16 units a text is encoded in a worker thread, so that the event loop never waits longer than a
 * few tens of milliseconds. The whole text is encoded at once there: cutting it could change tokens.
 */
export const workerThreshold = 16_384

/** What is used of @huggingface/tokenizers; its own types name modules that TypeScript's node16 rules do not find. */
interface HfTokenizer {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] }
  decode(
    ids: readonly number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces?: boolean },
  ): string
}
export type HfTokenizerClass = new (tokenizer: object, config: object) => HfTokenizer

interface Files {
  tokenizer: object
  config: object
}

/** Text to token ids and back, from tokenizer.json (and tokenizer_config.json) of a checkpoint folder. */
export class Tokenizer {
  readonly #hf: HfTokenizer
  readonly #files: Files

  private constructor(hf: HfTokenizer, files: Files) {
    this.#hf = hf
    this.#files = files
  }

  /** @throws SmoeError ERR_SMOE_TOKENIZER_UNAVAILABLE */
  static open(dir: string): Tokenizer {
    const file = path.join(dir, 'tokenizer.json')
    const tokenizer = readJson(dir, 'tokenizer.json', 'ERR_SMOE_TOKENIZER_UNAVAILABLE')
    if (tokenizer === undefined) throw unavailable(`${file} does not exist: give token ids instead of text`)
    const config = readJson(dir, 'tokenizer_config.json', 'ERR_SMOE_TOKENIZER_UNAVAILABLE') ?? {}
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      const { Tokenizer: Hf } = require('@huggingface/tokenizers') as { Tokenizer: HfTokenizerClass }
      const files = { tokenizer, config } as Files
      return new Tokenizer(new Hf(files.tokenizer, files.config), files)
    } catch (error) {
      throw unavailable(`${file} cannot be used: ${(error as Error).message}`, error)
    }
  }

  /** Token ids of a text; long texts in a worker thread. Aborting stops the worker. */
  async encode(text: string, addSpecialTokens: boolean, signal?: AbortSignal): Promise<Int32Array> {
    signal?.throwIfAborted()
    if (text.length > workerThreshold) return encodeInWorker(this.#files, text, addSpecialTokens, signal)
    return Int32Array.from(this.#hf.encode(text, { add_special_tokens: addSpecialTokens }).ids)
  }

  decode(ids: readonly number[], skipSpecialTokens = false): string {
    if (ids.length === 0) return '' // the library refuses an empty list
    return this.#hf.decode(ids, { skip_special_tokens: skipSpecialTokens })
  }

  /** Decodes without tidying spaces, so that a longer list only ever adds text. */
  decodeRaw(ids: readonly number[]): string {
    if (ids.length === 0) return ''
    return this.#hf.decode(ids, {
      skip_special_tokens: true,
      clean_up_tokenization_spaces: false,
    })
  }
}

function unavailable(why: string, cause?: unknown): SmoeError {
  return new SmoeError('ERR_SMOE_TOKENIZER_UNAVAILABLE', why, { cause })
}

/** Source text, not a file: this module runs from lib/ in tests and from dist/ when installed. */
const workerSource = `
const { parentPort, workerData } = require('node:worker_threads')
const { module, files, text, addSpecialTokens } = workerData
const { Tokenizer } = require(module)
const { ids } = new Tokenizer(files.tokenizer, files.config).encode(text, { add_special_tokens: addSpecialTokens })
const result = Int32Array.from(ids)
parentPort.postMessage(result, [result.buffer])
`

function encodeInWorker(
  files: Files,
  text: string,
  addSpecialTokens: boolean,
  signal: AbortSignal | undefined,
): Promise<Int32Array> {
  const module = require.resolve('@huggingface/tokenizers')
  const worker = new Worker(workerSource, {
    eval: true,
    workerData: { module, files, text, addSpecialTokens },
  })
  return new Promise<Int32Array>((resolve, reject) => {
    const onAbort = () => {
      void worker.terminate()
      reject(signal!.reason as Error)
    }
    const settle = (run: () => void) => {
      signal?.removeEventListener('abort', onAbort)
      run()
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    worker.once('message', (ids: Int32Array) => settle(() => resolve(ids)))
    worker.once('error', (error) =>
      settle(() => reject(unavailable(`encoding failed: ${error.message}`, error))),
    )
    worker.once('exit', (code) =>
      settle(() => reject(unavailable(`the encoding thread ended with code ${code}`))),
    )
  })
}
