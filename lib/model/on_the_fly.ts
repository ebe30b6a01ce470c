import type { NativeDecoderLayer, NativeExpert, QuantFormatName, QuantizedMatrix } from '../../binding'
import { abortable, native } from '../native'

/** Formats that experts can be brought into while a model loads: plain rounding, nothing to calibrate. */
export const loadFormats = ['w8', 'w4', 'w3', 'w2', 'wn', 't2'] as const
export type LoadFormat = (typeof loadFormats)[number]

/** Weights per scale: specs/quantization.md 4.1; the narrower formats get the zero point they need. */
interface Setting {
  group: number
  symmetric: boolean
  method: 'rtn' | 'mse'
  planes?: number
}

const settings: Record<LoadFormat, Setting> = {
  w8: { group: 128, symmetric: true, method: 'rtn' },
  w4: { group: 64, symmetric: true, method: 'rtn' },
  w3: { group: 64, symmetric: false, method: 'rtn' },
  w2: { group: 64, symmetric: false, method: 'rtn' },
  wn: { group: 128, symmetric: false, method: 'rtn', planes: 2 },
  t2: { group: 0, symmetric: true, method: 'mse' },
}

/** The layer with its routed experts quantized. The matrices are released with `release` once the layer is packed. */
export async function quantizeExperts(
  layer: NativeDecoderLayer,
  format: LoadFormat,
  signal: AbortSignal | undefined,
): Promise<{ layer: NativeDecoderLayer; release: () => void }> {
  const made: QuantizedMatrix[] = []
  const release = () => {
    for (const matrix of made) matrix.dispose()
  }
  if (layer.moe === undefined) return { layer, release }
  try {
    const experts: NativeExpert[] = []
    for (const expert of layer.moe.experts) {
      const changed = { ...expert }
      for (const name of ['gate', 'up', 'down'] as const) {
        const source = expert[name]
        if (source === undefined || 'quantized' in source) continue // stored quantized: it stays as it is
        const { shape } = source
        const { group, ...how } = settings[format]
        // A width that the usual group does not divide gets one scale per row.
        const options = {
          format: format as QuantFormatName,
          ...how,
          group: shape[1]! % (group || 1) === 0 ? group : 0,
        }
        const matrix = await abortable(signal, (cancel) =>
          native().QuantizedMatrix.quantize(source, options, undefined, cancel),
        )
        made.push(matrix)
        changed[name] = { quantized: matrix, dtype: 'f32', shape }
      }
      experts.push(changed)
    }
    return { layer: { ...layer, moe: { ...layer.moe, experts } }, release }
  } catch (error) {
    release()
    throw error
  }
}
