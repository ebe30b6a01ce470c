import type { NativeImportOptions, QuantFormatName, TensorSource } from '../../../binding'
import { native } from '../../native'
import type { Checkpoint, CheckpointTensor } from '../checkpoint'
import type { PackedForm } from '../memory'
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
      return pending(checkpoint, name, scheme, found, shape)
    },
  }
}

function pending(
  checkpoint: Checkpoint,
  name: string,
  scheme: QuantizationScheme,
  found: readonly (readonly [string, CheckpointTensor])[],
  shape: readonly number[],
): TensorSource {
  const options = optionsOf(scheme, shape)
  const make: PendingWeight['make'] = (cancel) => {
    const tensors = Object.fromEntries(
      found.map(([key, entry]) => [key, rawTensor(checkpoint.file(entry), entry)]),
    )
    return native().QuantizedMatrix.import(options, tensors, cancel)
  }
  return new PendingWeight(name, [...shape], packedForm(scheme, new Map(found), shape[1]!), make).asSource()
}

const integers: ReadonlyMap<number, QuantFormatName> = new Map([
  [2, 'w2'],
  [3, 'w3'],
  [4, 'w4'],
])

/** As native/prepare/import.cc makes it; zero points that turn out to be all the middle are dropped there. */
function packedForm(
  scheme: QuantizationScheme,
  found: ReadonlyMap<string, CheckpointTensor>,
  columns: number,
): PackedForm {
  const scale = found.get('weight_scale') ?? found.get('scales')
  const scaleBytes = scale?.dtype === 'F32' ? 4 : 2
  const form = (format: QuantFormatName, group: number, zeros = false): PackedForm => ({
    format,
    groups: group === 0 ? 1 : Math.ceil(columns / group),
    zeros,
    planes: 0,
    scaleBytes,
  })
  switch (scheme.kind) {
    case 'gptq':
    case 'awq':
      return form(integers.get(scheme.bits) ?? 'w8', scheme.group, true)
    case 'packed':
      return form(integers.get(scheme.bits) ?? 'w8', scheme.group, found.has('weight_zero_point'))
    case 'int8':
      return form('w8', scheme.group, found.has('weight_zero_point'))
    case 'float8':
      return form('f8', (scale?.shape[1] ?? 1) === 1 ? 0 : 128)
    case 'nvfp4':
      return form('w4c', 16)
    case 'mxfp4':
      return form('w4c', 32)
    case 'bitnet':
      return form('t2', 0)
  }
}

function optionsOf(scheme: QuantizationScheme, shape: readonly number[]): NativeImportOptions {
  return { ...scheme, rows: shape[0]!, cols: shape[1]! }
}
