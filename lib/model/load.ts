import type { Decoder } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import { Checkpoint } from '../checkpoint/checkpoint'
import { describeHead, describeLayer } from '../checkpoint/describe'
import type { Precision } from '../layer/description'
import { abortable, guarded, native } from '../native'

export interface LoadProgress {
  phase: 'load'
  /** decoder layers packed so far */
  layers: number
  total: number
}

/** Packs a checkpoint layer by layer, so that it can be watched and stopped. The files are closed at the end. */
export async function loadDecoder(
  dir: string,
  architecture: Architecture,
  precision: Precision,
  signal: AbortSignal | undefined,
  onProgress: (progress: LoadProgress) => void,
): Promise<Decoder> {
  const checkpoint = Checkpoint.open(dir)
  let decoder: Decoder | undefined
  try {
    const head = describeHead(architecture, checkpoint)
    const descriptions = architecture.layers.map((_, i) => describeLayer(architecture, i, checkpoint))
    decoder = await abortable(signal, (cancel) => native().Decoder.create(head, precision, cancel))
    const target = decoder
    for (const [i, layer] of descriptions.entries()) {
      await abortable(signal, (cancel) => target.addLayer(layer, cancel))
      onProgress({ phase: 'load', layers: i + 1, total: descriptions.length })
    }
    guarded(() => target.finish())
    return target
  } catch (error) {
    decoder?.dispose()
    throw error
  } finally {
    checkpoint.close()
  }
}
