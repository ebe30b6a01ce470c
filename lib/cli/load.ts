import type { Device } from '../device'
import type { Activations } from '../layer/description'
import { MoeModel } from '../model/moe_model'
import type { LoadFormat } from '../model/on_the_fly'
import { type Session, checkActivations } from './session'

/** What the options of every command on a model come to. */
export interface ModelOptions {
  device: Device
  precision: 'exact' | 'fast'
  activations: Activations
  format: 'stored' | LoadFormat
  json?: boolean
}

/** Loads the model that a command works on, with progress. */
export async function loadModel(session: Session, dir: string, options: ModelOptions): Promise<MoeModel> {
  checkActivations(options)
  const model = await MoeModel.load(dir, {
    device: options.device,
    precision: options.precision,
    activations: options.activations,
    ...(options.format === 'stored' ? {} : { format: options.format }),
    signal: session.signal,
    onProgress: ({ layers, total }) => session.progress(`loading ${dir}: layer ${layers} of ${total}`),
  })
  session.clearProgress()
  return model
}
