import { type ConfigReader, unsupported } from '../config'

/** What quantization_config says of the weights; names of tensors follow from the kind (specs/quantization.md 1.7). */
export type QuantizationScheme =
  | { kind: 'gptq'; bits: number; group: number; storedZeroMinusOne: boolean }
  | { kind: 'awq'; bits: number; group: number }
  | { kind: 'packed'; bits: number; group: number }
  | { kind: 'int8'; group: number }
  | { kind: 'float8' }
  | { kind: 'nvfp4' }
  | { kind: 'mxfp4' }
  | { kind: 'bitnet'; divide: boolean }

type Reader = (config: ConfigReader) => QuantizationScheme

const methods: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ['gptq', readGptq],
  ['awq', readAwq],
  ['compressed-tensors', readCompressed],
  ['fp8', readFp8],
  ['mxfp4', () => ({ kind: 'mxfp4' })],
  [
    'bitnet',
    (config) => ({ kind: 'bitnet', divide: config.string('linear_class', 'bitlinear') === 'bitlinear' }),
  ],
])

/**
 * Reads quantization_config; undefined when there is none.
 * @throws SmoeError ERR_SMOE_UNSUPPORTED_ARCHITECTURE naming the method, or ERR_SMOE_INVALID_CONFIG
 */
export function readScheme(config: ConfigReader): QuantizationScheme | undefined {
  const reader = config.object('quantization_config')
  if (reader === undefined) return undefined
  const method = reader.string('quant_method')
  const read = methods.get(method)
  if (read === undefined) {
    const known = [...methods.keys()].join(', ')
    throw unsupported(`quant_method '${method}' in ${reader.file} is not supported; known: ${known}`)
  }
  return read(reader)
}

/** -1 is one group per row. */
function groupSize(config: ConfigReader, fallback: number): number {
  const size = config.number('group_size', fallback)
  if (size === -1) return 0
  if (!Number.isInteger(size) || size < 1) throw config.fail('group_size', '-1 or a positive integer', size)
  return size
}

function readGptq(config: ConfigReader): QuantizationScheme {
  if (config.boolean('desc_act', false)) {
    throw unsupported(`desc_act in ${config.file} is not supported: its groups need permuted activations`)
  }
  const format = config.string('checkpoint_format', 'gptq')
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw unsupported(
      `checkpoint_format '${format}' in ${config.file} is not supported; known: gptq, gptq_v2`,
    )
  }
  const storedZeroMinusOne = format === 'gptq'
  return { kind: 'gptq', bits: config.size('bits'), group: groupSize(config, 128), storedZeroMinusOne }
}

function readAwq(config: ConfigReader): QuantizationScheme {
  const version = config.string('version', 'gemm').toLowerCase()
  if (version !== 'gemm') {
    throw unsupported(`version '${version}' of AWQ in ${config.file} is not supported; known: gemm`)
  }
  return { kind: 'awq', bits: config.size(['bits', 'w_bit'], 4), group: groupSize(config, 128) }
}

function readFp8(config: ConfigReader): QuantizationScheme {
  const format = config.string('fmt', 'e4m3')
  if (format !== 'e4m3') throw unsupported(`fmt '${format}' in ${config.file} is not supported; known: e4m3`)
  return { kind: 'float8' }
}

function readCompressed(config: ConfigReader): QuantizationScheme {
  const format = config.string('format')
  const groups = config.object('config_groups')
  const first = groups?.names()[0]
  const weights = first === undefined ? undefined : groups!.object(first)?.object('weights')
  if (weights === undefined) throw config.fail('config_groups', 'a group with weights', undefined)
  const group = weights.raw('group_size') === undefined ? 0 : groupSize(weights, -1)
  if (weights.raw('actorder') === 'group') {
    throw unsupported(`actorder in ${config.file} is not supported: its groups need permuted activations`)
  }
  const bits = weights.size('num_bits', 8)
  switch (format) {
    case 'pack-quantized':
      return { kind: 'packed', bits, group }
    case 'int-quantized':
    case 'naive-quantized':
      if (bits !== 8) throw weights.fail('num_bits', `8 for ${format}`, bits)
      return {
        kind: weights.string('type', 'int') === 'float' ? 'float8' : 'int8',
        group,
      }
    case 'float-quantized':
      return { kind: 'float8' }
    case 'nvfp4-pack-quantized':
      return { kind: 'nvfp4' }
    case 'mxfp4-pack-quantized':
      return { kind: 'mxfp4' }
    default:
      throw unsupported(
        `format '${format}' in ${config.file} is not supported; known: pack-quantized, int-quantized, ` +
          'float-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized',
      )
  }
}
