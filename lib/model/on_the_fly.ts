import type { MatrixSource, NativeDecoderLayer, NativeExpert } from '../../binding'

/** Formats that experts can be brought into while a model loads: rounding to nearest, nothing to calibrate. */
export const loadFormats = ['w8', 'w4', 'w4c', 'w3', 'w2', 'wn', 't2'] as const
export type LoadFormat = (typeof loadFormats)[number]

/** Formats so narrow that they need a zero point; bit-nested ones have it anyway. */
const asymmetric: ReadonlySet<LoadFormat> = new Set<LoadFormat>(['w3', 'w2'])

/** The layer with its routed experts to be quantized as they are packed. */
export function quantizeExperts(layer: NativeDecoderLayer, format: LoadFormat): NativeDecoderLayer {
  if (layer.moe === undefined) return layer
  const rounded = (source: MatrixSource): MatrixSource =>
    'quantized' in source ? source : { ...source, format, asym: asymmetric.has(format) } // stored quantized: it stays
  const experts = layer.moe.experts.map((expert): NativeExpert => {
    const changed = { ...expert, up: rounded(expert.up), down: rounded(expert.down) }
    return expert.gate === undefined ? changed : { ...changed, gate: rounded(expert.gate) }
  })
  return { ...layer, moe: { ...layer.moe, experts } }
}
