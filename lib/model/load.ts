import type { Decoder, NativeDecoderLayer } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import { describeHead, describeLayer } from '../checkpoint/describe'
import { openCheckpoint } from '../checkpoint/open'
import { resolvePending } from '../checkpoint/quantized/pending'
import { openingDevice } from '../device'
import type { Activations, Precision } from '../layer/description'
import { abortable, guarded, native } from '../native'
import { type LoadFormat, quantizeExperts } from './on_the_fly'

export interface LoadProgress {
  phase: 'load'
  /** decoder layers packed so far */
  layers: number
  total: number
}

export interface LoadSettings {
  precision: Precision
  /** default 'auto' */
  activations?: Activations
  device: number
  /** of routed experts, instead of the stored one */
  format?: LoadFormat | undefined
  signal?: AbortSignal | undefined
  onProgress?: (progress: LoadProgress) => void
}

/** Packs a checkpoint layer by layer, so that it can be watched and stopped. The files are closed at the end. */
export async function loadDecoder(
  dir: string,
  architecture: Architecture,
  settings: LoadSettings,
): Promise<Decoder> {
  const { precision, device, signal, onProgress } = settings
  const checkpoint = openCheckpoint(dir, architecture)
  let decoder: Decoder | undefined
  try {
    const head = describeHead(architecture, checkpoint)
    const descriptions = architecture.layers.map((_, i) => describeLayer(architecture, i, checkpoint))
    const { description: ready, release } = await resolvePending(head, signal)
    decoder = await openingDevice(device, () =>
      abortable(signal, (cancel) => native().Decoder.create(ready, precision, cancel, device)),
    ).finally(release)
    const target = decoder
    for (const [i, layer] of descriptions.entries()) {
      const { description, release: drop } = await resolvePending(layer, signal)
      try {
        await addLayer(target, description, settings)
      } finally {
        drop()
      }
      onProgress?.({ phase: 'load', layers: i + 1, total: descriptions.length })
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

async function addLayer(
  decoder: Decoder,
  stored: NativeDecoderLayer,
  { activations = 'auto', format, signal }: LoadSettings,
): Promise<void> {
  const layer = format === undefined ? stored : quantizeExperts(stored, format)
  if (layer.moe !== undefined) layer.moe.activations = activations
  await abortable(signal, (cancel) => decoder.addLayer(layer, cancel))
}
