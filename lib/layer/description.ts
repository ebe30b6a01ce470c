import type { MatrixSource, NativeExpert, NativeMoe, PrecisionName, WeightFormatName } from '../../binding'
import { SmoeError, typeError } from '../errors'
import { configFor, planRouter } from '../router/config'
import type { RouterSpec } from '../router/spec'
import { invalidSpec } from '../spec_reader'
import { weightSource } from '../tensor/source'
import { type Tensor, checkShaped } from '../tensor/tensor'
import { checkInteger, checkOneOf } from '../validate'

/** Activation between the two projections of an expert. */
export type Activation = 'silu' | 'gelu_tanh' | 'gelu_erf' | 'relu' | 'relu2' | 'identity'
/**
 * Of gated experts: act(min(g, limit)) * (clamp(u, -limit, limit) + beta), where 'silu' is x * sigmoid(alpha * x).
 * Defaults: 1, no limit, 0.
 */
export interface GluParameters {
  alpha?: number
  limit?: number
  beta?: number
}
/**
 * How weights are kept. The quantized formats are made from the given tensors by rounding to nearest: w8, w4, w3, w2, w1
 * integers of that many bits; w4c a 4-bit codebook; wn 2 bits and two one-bit planes; t2, t5 ternary; f8 E4M3.
 */
export type WeightFormat = WeightFormatName
/**
 * 'exact': f32 activations. 'fast' (default): bf16 activations over bf16, w4c and f8 weights, int8 ones over the other
 * quantized formats.
 */
export type Precision = PrecisionName
/**
 * What experts of integers (w*, t*) are multiplied by in precision 'fast'. 'int8': activations rounded to int8 per token
 * and scale group, with exact integer sums; the CPU has nothing else. 'bf16': CUDA devices only. 'auto' (default): bf16 on
 * a CUDA device, int8 on the CPU.
 */
export type Activations = 'auto' | 'bf16' | 'int8'

/** 4-bit codebooks: E2M1 with a power of two per 32 columns, E2M1 with E4M3 per 16, normal quantiles with f16 per 32. */
export const codebooks = ['mxfp4', 'nvfp4', 'nf4'] as const
export type Codebook = (typeof codebooks)[number]

export const activations: readonly Activation[] = [
  'silu',
  'gelu_tanh',
  'gelu_erf',
  'relu',
  'relu2',
  'identity',
]

export const weightFormats: readonly WeightFormat[] = [
  'f32',
  'bf16',
  'w8',
  'w4',
  'w4c',
  'w3',
  'w2',
  'w1',
  'wn',
  't2',
  't5',
  'f8',
]

export const activationsNames: readonly Activations[] = ['auto', 'bf16', 'int8']

export function checkActivations(value: unknown): Activations {
  return value === undefined ? 'auto' : checkOneOf('activations', value, activationsNames)
}

export function checkPrecision(value: unknown): Precision {
  return value === undefined ? 'fast' : checkOneOf('precision', value, ['exact', 'fast'])
}

/**
 * One feed-forward expert: down(act(gate x) * up x), or down(act(up x)) without a gate. f32, f16 or bf16; biases are
 * optional. I, the expert width, may differ from expert to expert.
 */
export interface ExpertWeights {
  /** [I, H] */
  gate?: Tensor
  /** [I, H] */
  up: Tensor
  /** [H, I] */
  down: Tensor
  /** [I] */
  gateBias?: Tensor
  /** [I] */
  upBias?: Tensor
  /** [H] */
  downBias?: Tensor
  /** default: bf16 for bf16 tensors, else f32 */
  format?: WeightFormat
  /** format of `down` alone, when it is another */
  downFormat?: WeightFormat
  /** columns per scale, a divisor of H and I; default: the format's own */
  group?: number
  /** with zero points (w8, w4, w3, w2) */
  asym?: boolean
  /** of w4c; default 'mxfp4' */
  codebook?: Codebook
}

/** A MoE layer from tensors; all are copied before create() returns its promise. */
export interface MoeLayerDescription {
  router: RouterSpec
  /** [E, H] */
  routerWeight: Tensor
  /** [E], added to the logits */
  routerBias?: Tensor
  experts: readonly ExpertWeights[]
  /** always on, added to the routed output */
  shared?: ExpertWeights
  /** `[1, H]`: the shared output is multiplied by sigmoid of hidden times it */
  sharedGate?: Tensor
  /** default 'silu' */
  activation?: Activation
  /** bounds and shifts of a gated activation, as gpt-oss has them */
  glu?: GluParameters
}

/** Checks a description and gives what the addon takes. */
export function describeLayer(description: MoeLayerDescription): NativeMoe {
  const { routerWeight, experts, shared, sharedGate, routerBias } = description
  const plan = planRouter(description.router)
  if (plan.affinity === 'external') {
    throw invalidSpec(`router.affinity.kind must be 'linear' in a layer: it computes its own logits`)
  }
  const [count, hidden] = checkShaped('routerWeight', routerWeight, [-1, -1]).shape as [number, number]
  if (!Array.isArray(experts)) throw typeError('experts', 'an array of experts', experts)
  if (experts.length !== count) {
    throw new SmoeError(
      'ERR_SMOE_SHAPE_MISMATCH',
      `experts must have one entry per row of routerWeight (${count}), got ${experts.length}`,
    )
  }
  const desc: NativeMoe = {
    hidden,
    activation:
      description.activation === undefined
        ? 'silu'
        : checkOneOf('activation', description.activation, activations),
    router: configFor(plan, count),
    routerWeight: weightSource('routerWeight', routerWeight),
    experts: experts.map((expert, i) => describeExpert(`experts[${i}]`, expert as ExpertWeights, hidden)),
  }
  if (description.glu !== undefined) desc.glu = checkGlu(description.glu)
  if (routerBias !== undefined) {
    desc.routerBias = weightSource('routerBias', checkShaped('routerBias', routerBias, [count]))
  }
  if (shared !== undefined) desc.shared = describeExpert('shared', shared, hidden)
  if (sharedGate !== undefined) {
    if (shared === undefined) throw typeError('shared', 'an expert when sharedGate is given', shared)
    desc.sharedGate = weightSource('sharedGate', checkShaped('sharedGate', sharedGate, [1, hidden]))
  }
  return desc
}

/** Types alone: what values make sense together, the addon knows. */
function checkGlu(value: unknown): GluParameters {
  if (typeof value !== 'object' || value === null) throw typeError('glu', 'an object', value)
  const { alpha, limit, beta } = value as Record<string, unknown>
  const fields = { alpha, limit, beta }
  for (const [key, field] of Object.entries(fields)) {
    if (field !== undefined && !Number.isFinite(field))
      throw typeError(`glu.${key}`, 'a finite number', field)
  }
  return value
}

function withFormat(name: string, source: MatrixSource, expert: ExpertWeights, down: boolean): MatrixSource {
  const { group, asym, codebook } = expert
  const format = (down ? expert.downFormat : undefined) ?? expert.format
  if (format === undefined) return source
  source.format = checkOneOf(`${name}.${down ? 'downFormat' : 'format'}`, format, weightFormats)
  if (format === 'f32' || format === 'bf16') return source
  if (codebook !== undefined)
    source.codebook = codebooks.indexOf(checkOneOf(`${name}.codebook`, codebook, codebooks))
  if (group !== undefined) source.group = checkInteger(`${name}.group`, group, 1)
  if (asym !== undefined) {
    if (typeof asym !== 'boolean') throw typeError(`${name}.asym`, 'a boolean', asym)
    source.asym = asym
  }
  return source
}

function describeExpert(name: string, expert: ExpertWeights, hidden: number): NativeExpert {
  if (typeof expert !== 'object' || expert === null) throw typeError(name, 'an object of tensors', expert)
  const up = checkShaped(`${name}.up`, expert.up, [-1, hidden])
  const width = up.shape[0]!
  const matrix = (key: 'gate' | 'up' | 'down', tensor: Tensor): MatrixSource =>
    withFormat(name, weightSource(`${name}.${key}`, tensor), expert, key === 'down')
  const desc: NativeExpert = {
    up: matrix('up', up),
    down: matrix('down', checkShaped(`${name}.down`, expert.down, [hidden, width])),
  }
  if (expert.gate !== undefined) {
    desc.gate = matrix('gate', checkShaped(`${name}.gate`, expert.gate, [width, hidden]))
  } else if (expert.gateBias !== undefined) {
    throw typeError(`${name}.gate`, 'a Tensor when gateBias is given', expert.gate)
  }
  const biases = { gateBias: width, upBias: width, downBias: hidden } as const
  for (const key of Object.keys(biases) as (keyof typeof biases)[]) {
    const bias = expert[key]
    if (bias === undefined) continue
    desc[key] = weightSource(`${name}.${key}`, checkShaped(`${name}.${key}`, bias, [biases[key]]))
  }
  return desc
}
