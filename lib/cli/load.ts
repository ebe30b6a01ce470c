import type { Device } from '../device'
import { rangeError } from '../errors'
import type { Activations } from '../layer/description'
import type { TokenIds } from '../model/arguments'
import { MoeModel } from '../model/moe_model'
import type { LoadFormat } from '../model/on_the_fly'
import { hasNestedExperts } from './nested'
import { type Session, checkActivations, usageError } from './session'

/** What the options of every command on a model come to. */
export interface ModelOptions {
  device: Device
  precision: 'exact' | 'fast'
  activations: Activations
  format: 'stored' | LoadFormat
  /** of commands that can read bit-nested experts with fewer planes */
  expertBits?: number
  json?: boolean
}

/** What the commands that start from a prompt have on top. */
export interface PromptOptions {
  prompt?: string
  promptIds?: number[]
}

/** To be asked before the model is loaded. */
export function checkPrompt({ prompt, promptIds }: PromptOptions): void {
  if (prompt === undefined && promptIds === undefined)
    throw usageError('one of --prompt and --prompt-ids is needed')
}

/** Token ids of the prompt. An empty text will do for the models whose tokenizer puts a token before it. */
export async function encodePrompt(
  session: Session,
  model: MoeModel,
  { prompt = '', promptIds }: PromptOptions,
): Promise<TokenIds> {
  if (promptIds !== undefined) return promptIds
  const ids = await model.encode(prompt, { signal: session.signal })
  if (ids.length > 0) return ids
  throw rangeError('--prompt', 'a text of at least one token: this model puts none before it', prompt)
}

/** Loads the model that a command works on, with progress. */
export async function loadModel(session: Session, dir: string, options: ModelOptions): Promise<MoeModel> {
  checkActivations(options)
  const { expertBits, format } = options
  if (expertBits !== undefined && !hasNestedExperts(dir, format)) {
    // Calls of the API leave other experts as they are; here the same perplexity would pass for one at fewer bits.
    const expected = `absent for ${dir}, which has no bit-nested experts: they come from --format wn, here or in quantize`
    throw rangeError('--expert-bits', expected, expertBits)
  }
  const model = await MoeModel.load(dir, {
    device: options.device,
    precision: options.precision,
    activations: options.activations,
    ...(format === 'stored' ? {} : { format }),
    signal: session.signal,
    onProgress: ({ layers, total }) => session.progress(`loading ${dir}: layer ${layers} of ${total}`),
  })
  session.clearProgress()
  return model
}
