import type { Architecture } from './architecture'
import { Checkpoint } from './checkpoint'
import { canonicalWeights } from './quantized/canonical'
import { importedWeights } from './quantized/weights'

/**
 * Opens a checkpoint folder with the quantized weights that its config or its metadata announce.
 * @throws SmoeError as Checkpoint.open, ERR_SMOE_INVALID_QUANTIZATION
 */
export function openCheckpoint(
  dir: string,
  architecture: Architecture,
  open: (dir: string) => Checkpoint = (name) => Checkpoint.open(name),
): Checkpoint {
  const checkpoint = open(dir)
  try {
    const { quantization } = architecture
    checkpoint.quantized =
      canonicalWeights(checkpoint, architecture) ??
      (quantization?.method === 'imported' ? importedWeights(checkpoint, quantization.scheme) : undefined)
    return checkpoint
  } catch (error) {
    checkpoint.close()
    throw error
  }
}
