import type { NativeMomentumSpec } from '../../binding'
import { describe } from '../errors'
import { SpecReader, invalidSpec } from '../spec_reader'

export type MomentumType = 'none' | 'heavy_ball' | 'complex' | 'robust' | 'nesterov' | 'adam'

/**
 * The residual step of every MoE layer, after MomentumSMoE (arXiv 2410.14574). With y the layer's MoE output, x the
 * residual stream and m the state, which is zero below the first MoE layer:
 *
 * - none: x + y
 * - heavy_ball: m = mu m + gamma y; x + sign m
 * - complex: m = (beta1 + i beta2) m + gamma y; x + sign Re m
 * - robust, nesterov: as heavy ball with derived constants and a look-ahead on the layer's input
 * - adam: p = beta1 p + (1 - beta1) y; v = beta2 v + (1 - beta2) y^2; (1 - kappa) x + sign gamma1 p / sqrt(v + eps) in
 *   the layers of adamLayers, heavy ball in all others
 */
export interface MomentumSpec {
  type: MomentumType
  /** decay, default 0.7 (robust: 0.2), |mu| < 1; an array gives one value per MoE layer */
  mu?: number | readonly number[]
  /** factor on y, default 1; robust: condition number, above 1, default 1.25 */
  gamma?: number | readonly number[]
  /** -1 (default, as the authors) or 1 (experts trained with their own sign) */
  sign?: number
  /** default 0.9 (complex: 0.7, real part of the decay) */
  beta1?: number
  /** default 0.999 (complex: 0.1, imaginary part) */
  beta2?: number
  /** adam step size, default 1 */
  gamma1?: number
  /** adam, inside the root, default 1e-8 */
  eps?: number
  /** adam decay, default 1 */
  kappa?: number
  /** robust: smoothness, default 1 */
  L?: number
  /** adam: MoE layers, from 0, that take the Adam step; default [0] */
  adamLayers?: readonly number[]
}

const types = ['none', 'heavy_ball', 'complex', 'robust', 'nesterov', 'adam'] as const

/** State tensors that each type carries up the depth. */
export const stateNames: Record<MomentumType, readonly string[]> = {
  none: [],
  heavy_ball: ['m'],
  complex: ['m', 'm_im'],
  robust: ['m'],
  nesterov: ['m'],
  adam: ['m', 'p', 'v'],
}

/**
 * Checks the fields of a MomentumSpec, also in the snake_case of config.json, and gives what the addon takes. Ranges
 * depend on each other and are checked by the addon (native/layer/momentum.cc).
 * @param path the name that messages give it: 'spec', or 'momentum_smoe' of a config.json
 * @throws SmoeError ERR_SMOE_INVALID_SPEC
 */
export function parseMomentumSpec(value: unknown, path = 'spec'): NativeMomentumSpec {
  const reader = new SpecReader(path, value)
  const type = reader.oneOf('type', types)
  const spec: NativeMomentumSpec = { type }
  const mu = perLayer(reader, 'mu')
  if (mu !== undefined) spec.mu = mu
  const gamma = perLayer(reader, 'gamma')
  if (gamma !== undefined) spec.gamma = gamma
  for (const name of ['sign', 'beta1', 'beta2', 'gamma1', 'eps', 'kappa', 'L'] as const) {
    if (reader.get(name) !== undefined) spec[name] = reader.number(name)
  }
  const camel = reader.get('adamLayers')
  const adamLayers = camel ?? reader.get('adam_layers')
  if (adamLayers !== undefined) spec.adamLayers = layerList(path, adamLayers)
  reader.finish()
  return spec
}

function perLayer(reader: SpecReader, name: string): number | number[] | undefined {
  const value = reader.get(name)
  if (value === undefined) return undefined
  if (!Array.isArray(value)) return reader.number(name)
  if (value.length === 0 || !value.every((item) => typeof item === 'number' && Number.isFinite(item))) {
    throw invalidSpec(
      `${reader.path}.${name} must hold one finite number per MoE layer, got ${describe(value)}`,
    )
  }
  return value as number[]
}

function layerList(path: string, value: unknown): number[] {
  if (Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0)) {
    return value as number[]
  }
  throw invalidSpec(`${path}.adamLayers must be a list of MoE layers, counted from 0, got ${describe(value)}`)
}
