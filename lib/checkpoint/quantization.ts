import { type ConfigReader, unsupported } from './config'
import { type QuantizationScheme, readScheme } from './quantized/scheme'

/** How a checkpoint says its weights are coded; what a tensor really is, its dtype and its name tell. */
export type Quantization =
  // decoded while it is packed, straight from the file
  | { method: 'fp8'; block: readonly [number, number] }
  | { method: 'mxfp4' }
  // brought into the canonical form first (quantized/)
  | { method: 'imported'; scheme: QuantizationScheme }

/** Codes under one MXFP4 scale. */
export const mxfp4Group = 32

/**
 * Reads quantization_config. Activation schemes are not asked for: weights alone are decoded, activations keep the
 * precision of the model. `modules_to_not_convert` needs no reading either, since these modules' tensors are plain.
 * @throws SmoeError ERR_SMOE_UNSUPPORTED_ARCHITECTURE naming the method
 */
export function readQuantization(config: ConfigReader): Quantization | undefined {
  const fields = config.object('quantization_config')
  if (fields === undefined) return undefined
  const method = fields.string('quant_method')
  if (method === 'mxfp4') return { method }
  const block = method === 'fp8' ? fields.counts('weight_block_size', []) : []
  if (block.length === 0) return { method: 'imported', scheme: readScheme(config)! }
  const format = fields.string('fmt', 'e4m3')
  if (format !== 'e4m3') throw unsupported(`fmt '${format}' in ${fields.file} is not supported; known: e4m3`)
  const [rows = 0, columns = 0] = block
  if (block.length !== 2 || rows === 0 || columns === 0) {
    throw fields.fail('weight_block_size', 'two sizes above 0', block)
  }
  return { method: 'fp8', block: [rows, columns] }
}

/** Name of the scales beside an FP8 matrix. They are multiplied, whatever the name says. */
export const scaleName = (weight: string): string => `${weight}_scale_inv`
