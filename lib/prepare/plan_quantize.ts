import type { Calibration } from '../../binding'
import { type Allocation, allocate } from './allocate'
import type { QuantizeFormat, Rounding, StarvedPolicy } from './quantize_options'
import type { SmoothReport } from './smooth'

/** What calibration says of one expert, and what was chosen for it. */
export interface ExpertPlan {
  expert: number
  format: QuantizeFormat
  /** share of the calibration tokens that were sent to it */
  share: number
  /** sum of its routing weights over the tokens */
  weight: number
  /** relative output error sqrt(|E - E^|^2 / |E|^2) by format, for a mix; absent for an expert without calibration */
  errors?: Partial<Record<QuantizeFormat, number>>
  method: Rounding
  /** why it is not quantized as the others are */
  fallback?: 'few calibration tokens'
  /** and by what instead: its weights alone, or (gate and up) the inputs of the whole layer */
  fallbackTo?: StarvedPolicy
}

export interface LayerPlan {
  layer: number
  experts: ExpertPlan[]
  /** mean bits of a code over the layer's experts */
  bits: number
  /** calibration tokens that it saw */
  tokens?: number
  /** of a mix: relative error of what the routed experts put out, were they all of this format */
  errors?: Partial<Record<QuantizeFormat, number>>
  /** of a mix: cost of the choice (among experts of the layer, or among layers) and what no choice of the size can beat */
  cost?: number
  bound?: number
  smooth?: SmoothReport
  /** of an aligned router: clip ratio, and the divergence of its choice of experts with it and without */
  router?: { ratio: number; kl: number; klPlain: number }
}

/** Plain data: what quantizeCheckpoint() does, and why. */
export interface QuantizePlan {
  version: 1
  kind: 'quantize'
  calibrationTokens: number
  layers: LayerPlan[]
}

/**
 * Formats that a mix of this many mean bits chooses from. One bit loses so much that sums of errors no longer tell what a
 * model loses, so it takes part only where the budget cannot do without.
 */
export function mixFormats(bits: number): readonly QuantizeFormat[] {
  return bits < 2 ? ['w1', 'w2', 'w3'] : ['w2', 'w3', 'w4']
}

/** Bits of a code; `planes` of wn. */
export function codeBits(format: QuantizeFormat, planes = 0): number {
  return { w8: 8, w4: 4, w4c: 4, w3: 3, w2: 2, w1: 1, wn: 2 + planes, t2: 2, t5: 1.6 }[format]
}

export type LayerStats = ReturnType<Calibration['stats']>[number]

/** Squared output error of an expert per format, as a mean over its sampled rows. */
export type ExpertErrors = readonly number[]

export interface MixOptions {
  /** mean bits of a code */
  bits: number
  formats: readonly QuantizeFormat[]
  /** PMQ's exponents: phi^alpha w^beta eps^gamma (specs/quantization.md 2.7) */
  alpha: number
  beta: number
  gamma: number
  /** PMQ wants at least one 3- and one 2-bit expert in every layer */
  required?: readonly QuantizeFormat[]
}

/**
 * The cost of giving expert i of a layer the format b: phi^alpha w^beta eps^gamma, with eps the mean output error per
 * routed token already weighted by the gate. An expert that calibration never reached has no error of its own: it is given
 * the layer's mean error and half a token, so that it is cheap to make small but never free of cost.
 */
export function layerCosts(
  stats: Pick<LayerStats, 'tokens' | 'counts' | 'weights'>,
  errors: readonly (ExpertErrors | undefined)[],
  options: Pick<MixOptions, 'alpha' | 'beta' | 'gamma'>,
): number[][] {
  const { tokens, counts, weights } = stats
  const known = errors.filter((error) => error !== undefined)
  const levels = known[0]?.length ?? 0
  const mean = Array.from(
    { length: levels },
    (_, j) => known.reduce((sum, e) => sum + e[j]!, 0) / known.length,
  )
  const assigned = counts.reduce((sum, count) => sum + count, 0)
  const perAssignment = assigned === 0 ? 0 : weights.reduce((sum, weight) => sum + weight, 0) / assigned
  return errors.map((own, i) => {
    const count = own === undefined ? 0.5 : counts[i]!
    const weight = own === undefined ? 0.5 * perAssignment : weights[i]!
    const phi = count / tokens
    const factor = phi ** options.alpha * (weight / tokens) ** options.beta
    return (own ?? mean).map((squared) => factor * Math.sqrt(squared) ** options.gamma)
  })
}

/** Chooses formats for experts of one size under a common budget of `bits` mean bits; exact (allocate). */
export function chooseFormats(
  costs: readonly (readonly number[])[],
  options: Pick<MixOptions, 'bits' | 'formats' | 'required'>,
): Allocation & { formats: QuantizeFormat[] } {
  const units = options.formats.map((format) => codeBits(format))
  const allocation = allocate({
    cost: costs,
    size: costs.map(() => units),
    budget: Math.floor(options.bits * costs.length + 1e-9),
    required: (options.required ?? []).map((format) => options.formats.indexOf(format)),
  })
  return { ...allocation, formats: allocation.choice.map((j) => options.formats[j]!) }
}

/** The error is weighted by the gate and its mean is over routed tokens, so phi alone makes it the layer's total. */
export const pmq = { alpha: 1, beta: 0, gamma: 2 } as const

/**
 * Chooses one format per layer under a budget of mean bits over all weights (EAQuant's mixed precision): the cost of a
 * layer is the squared relative error of what its experts put out, so that layers of different magnitude compare.
 */
export function chooseLayerFormats(
  layers: readonly { weights: number; errors: Partial<Record<QuantizeFormat, number>> }[],
  bits: number,
  formats: readonly QuantizeFormat[],
): Allocation & { formats: QuantizeFormat[] } {
  const unit = layers.reduce((divisor, { weights }) => gcd(divisor, weights), 0)
  const size = layers.map(({ weights }) => formats.map((format) => codeBits(format) * (weights / unit)))
  const total = layers.reduce((sum, { weights }) => sum + weights / unit, 0)
  const allocation = allocate({
    cost: layers.map(({ errors }) => formats.map((format) => errors[format]! ** 2)),
    size,
    budget: Math.floor(bits * total + 1e-9),
  })
  return { ...allocation, formats: allocation.choice.map((j) => formats[j]!) }
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
