import type { NativeImportOptions, TensorSource } from '../../../binding'
import { native } from '../../native'
import type { Checkpoint, CheckpointTensor } from '../checkpoint'
import { PendingWeight, rawTensor } from './pending'
import type { QuantizationScheme } from './scheme'

/** Finds quantized weights by the name that the plain weight would have. */
export interface QuantizedWeights {
  /** undefined when this weight is stored as it is */
  find: (name: string, shape: readonly number[]) => TensorSource | undefined
}

/** Where each kind keeps the parts of a matrix: [name for the addon, suffix after the stem, whether it must be there]. */
type Part = readonly [name: string, suffixes: readonly string[], needed: boolean]

const parts: Record<QuantizationScheme['kind'], readonly Part[]> = {
  gptq: [
    ['qweight', ['qweight'], true],
    ['qzeros', ['qzeros'], true],
    ['scales', ['scales'], true],
    ['g_idx', ['g_idx'], false],
  ],
  awq: [
    ['qweight', ['qweight'], true],
    ['qzeros', ['qzeros'], true],
    ['scales', ['scales'], true],
  ],
  packed: [
    ['weight_packed', ['weight_packed'], true],
    ['weight_scale', ['weight_scale'], true],
    ['weight_zero_point', ['weight_zero_point'], false],
    ['weight_g_idx', ['weight_g_idx'], false],
  ],
  int8: [
    ['weight', ['weight'], true],
    ['weight_scale', ['weight_scale'], true],
    ['weight_zero_point', ['weight_zero_point'], false],
  ],
  float8: [
    ['weight', ['weight'], true],
    ['weight_scale', ['weight_scale_inv', 'weight_scale'], true],
  ],
  nvfp4: [
    ['weight_packed', ['weight_packed'], true],
    ['weight_scale', ['weight_scale'], true],
    ['weight_global_scale', ['weight_global_scale'], true],
  ],
  mxfp4: [
    ['blocks', ['weight_packed'], true],
    ['scales', ['weight_scale'], true],
  ],
  bitnet: [
    ['weight', ['weight'], true],
    ['weight_scale', ['weight_scale'], true],
  ],
}

const floats = ['F32', 'F16', 'BF16']

/** The weights of a checkpoint whose config.json has a quantization_config. */
export function importedWeights(checkpoint: Checkpoint, scheme: QuantizationScheme): QuantizedWeights {
  return {
    find(name, shape) {
      if (shape.length !== 2 || !name.endsWith('.weight')) return undefined
      const plain = checkpoint.tensors.get(name)
      if (plain !== undefined && floats.includes(plain.dtype)) return undefined
      const stem = name.slice(0, -'weight'.length)
      const found: [string, CheckpointTensor][] = []
      for (const [key, suffixes, needed] of parts[scheme.kind]) {
        const suffix = suffixes.find((candidate) => checkpoint.has(stem + candidate))
        if (suffix !== undefined) found.push([key, checkpoint.use(stem + suffix)])
        // Nothing of this matrix is quantized: the plain name is the one to miss.
        else if (needed && found.length === 0) return undefined
        else if (needed) checkpoint.use(stem + suffixes[0]!) // refuses, naming the tensor
      }
      if (checkpoint.has(`${stem}weight_shape`)) checkpoint.use(`${stem}weight_shape`)
      return pending(checkpoint, name, optionsOf(scheme, shape), found, shape)
    },
  }
}

function pending(
  checkpoint: Checkpoint,
  name: string,
  options: NativeImportOptions,
  found: readonly (readonly [string, CheckpointTensor])[],
  shape: readonly number[],
): TensorSource {
  const make: PendingWeight['make'] = (cancel) => {
    const tensors = Object.fromEntries(
      found.map(([key, entry]) => [key, rawTensor(checkpoint.file(entry), entry)]),
    )
    return native().QuantizedMatrix.import(options, tensors, cancel)
  }
  return new PendingWeight(name, [...shape], make).asSource()
}

function optionsOf(scheme: QuantizationScheme, shape: readonly number[]): NativeImportOptions {
  return { ...scheme, rows: shape[0]!, cols: shape[1]! }
}
