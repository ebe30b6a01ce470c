import { MoeModel } from '../model/moe_model'
import type { Device } from '../device'
import type { Session } from './session'

/** What the options of every command on a model come to. */
export interface ModelOptions {
  device: string
  precision: 'exact' | 'fast'
  format?: 'bf16' | 'f32'
  threads?: number
  json?: boolean
}

/** Loads the model that a command works on, with progress. */
export async function loadModel(
  session: Session,
  dir: string,
  options: ModelOptions,
  contextLength?: number,
): Promise<MoeModel> {
  const model = await MoeModel.load(dir, {
    device: options.device as Device,
    precision: options.precision,
    formats: options.format,
    contextLength,
    signal: session.signal,
    onProgress: ({ done, total }) => session.progress(`loading ${dir}: ${done} of ${total}`),
  })
  session.clearProgress()
  return model
}
