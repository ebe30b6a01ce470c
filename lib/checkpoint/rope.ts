import { describe } from '../errors'
import { type ConfigReader, unsupported } from './config'

/** Rotary position embedding of one model. */
export interface Rope {
  /** [rotary dimensions / 2], scaling applied */
  invFreq: Float32Array
  /** factor on cos and sin (YaRN's attention factor), 1 otherwise */
  scale: number
  /** factor on the scores that DeepSeek's attention adds to YaRN (mscale_all_dim, squared), 1 otherwise */
  softmaxScale: number
}

/**
 * Rotary frequencies from config.json: rope_theta with rope_scaling (transformers 4) or rope_parameters (5).
 * Types: default, linear, llama3, yarn (arXiv 2309.00071); others are refused by name.
 */
export function readRope(
  config: ConfigReader,
  headDim: number,
  defaultTheta: number,
  maxPositions: number,
): Rope {
  const rope = readScaled(config, headDim, defaultTheta, maxPositions)
  // Fields that are fine one by one can still divide by zero, or pass what f32 holds, together.
  const values = [...rope.invFreq, rope.scale, rope.softmaxScale]
  if (!values.every((value) => value >= 0 && Number.isFinite(Math.fround(value)))) {
    const given = config.raw('rope_parameters', 'rope_scaling') ?? config.raw('rope_theta')
    throw config.fail(
      'rope_parameters or rope_scaling',
      'such that frequencies and factors are finite',
      given,
    )
  }
  return rope
}

function readScaled(config: ConfigReader, headDim: number, defaultTheta: number, maxPositions: number): Rope {
  const scaling = config.object('rope_parameters', 'rope_scaling')
  const theta =
    scaling?.raw('rope_theta') === undefined
      ? config.number('rope_theta', defaultTheta)
      : scaling.number('rope_theta')
  if (theta <= 0) throw config.fail('rope_theta', 'above 0', theta)
  const partial = scaling?.raw('partial_rotary_factor') ?? config.raw('partial_rotary_factor') ?? 1
  const dims = typeof partial === 'number' ? Math.trunc(headDim * partial) : NaN
  if (!(dims >= 2 && dims <= headDim && dims % 2 === 0)) {
    throw config.fail('partial_rotary_factor', 'such that an even number of head dimensions rotate', partial)
  }
  const invFreq = baseFrequencies(theta, dims)
  const type = scaling?.raw('rope_type', 'type') ?? 'default'
  if (scaling === undefined || type === 'default') return { invFreq, scale: 1, softmaxScale: 1 }
  switch (type) {
    case 'linear':
      return { invFreq: invFreq.map((f) => f / scaling.positive('factor')), scale: 1, softmaxScale: 1 }
    case 'llama3':
      return { invFreq: llama3(scaling, invFreq), scale: 1, softmaxScale: 1 }
    case 'yarn':
      return yarn(scaling, invFreq, theta, maxPositions)
    default:
      throw unsupported(
        `rope type ${describe(type)} in ${config.file} is not supported; known: default, linear, llama3, yarn`,
      )
  }
}

/** theta^(-2i/dims), rounded to f32 after each operation as PyTorch does: positions in the thousands amplify it. */
function baseFrequencies(theta: number, dims: number): Float32Array {
  return Float32Array.from(
    { length: dims / 2 },
    (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / dims)),
  )
}

/** Long wavelengths are stretched by `factor`, short ones kept, those between blended. */
function llama3(config: ConfigReader, invFreq: Float32Array): Float32Array {
  const factor = config.positive('factor')
  const low = config.positive('low_freq_factor')
  const high = config.positive('high_freq_factor')
  const original = config.positive('original_max_position_embeddings')
  if (high <= low) throw config.fail('high_freq_factor', `above low_freq_factor (${low})`, high)
  return invFreq.map((f) => {
    const turns = (original * f) / (2 * Math.PI) // over the original context
    if (turns > high) return f
    if (turns < low) return f / factor
    const smooth = (turns - low) / (high - low)
    return (1 - smooth) * (f / factor) + smooth * f
  })
}

/** Frequencies that turn often keep their pace, slow ones are interpolated, with a linear ramp between (YaRN). */
function yarn(config: ConfigReader, invFreq: Float32Array, theta: number, maxPositions: number): Rope {
  const original = config.size('original_max_position_embeddings', maxPositions)
  const factor = config.raw('factor') === undefined ? maxPositions / original : config.positive('factor')
  const dims = invFreq.length * 2
  const dimensionOf = (turns: number) =>
    (dims * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  let first = dimensionOf(config.number('beta_fast', 32))
  let last = dimensionOf(config.number('beta_slow', 1))
  if (config.boolean('truncate', true)) [first, last] = [Math.floor(first), Math.ceil(last)]
  first = Math.max(first, 0)
  last = Math.min(last, dims - 1)
  if (first === last) last += 0.001
  const blended = invFreq.map((f, i) => {
    const ramp = Math.min(Math.max((i - first) / (last - first), 0), 1)
    return (f / factor) * ramp + f * (1 - ramp)
  })
  const stretch = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1)
  const mscale = config.number('mscale', 0)
  const allDims = config.number('mscale_all_dim', 0)
  const both = mscale !== 0 && allDims !== 0
  return {
    invFreq: blended,
    scale: config.number('attention_factor', both ? stretch(mscale) / stretch(allDims) : stretch(1)),
    softmaxScale: stretch(allDims) ** 2,
  }
}
