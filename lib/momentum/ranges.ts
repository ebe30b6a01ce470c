import type { NativeMomentumSpec } from '../../binding'
import { invalidSpec } from '../spec_reader'

// The ranges of native/layer/momentum.cc once more, for configs: they are refused where they are read, also where only
// headers are looked at and no addon is loaded.

/** Kernels work in f32. */
const largest = (2 - 2 ** -23) * 2 ** 127
const smallestNormal = 2 ** -126

/**
 * Checks the values of a parsed spec for a model with `depth` MoE layers.
 * @param path the name that messages give it
 * @throws SmoeError ERR_SMOE_INVALID_SPEC
 */
export function checkMomentumRanges(spec: NativeMomentumSpec, depth: number, path: string): void {
  const { type } = spec
  if (type === 'none') return
  const check = (name: string, value: number, expected: string, ok: boolean) => {
    if (!ok) throw invalidSpec(`${path}.${name} must be ${expected}, got ${value}`)
  }
  for (const name of ['mu', 'gamma', 'sign', 'beta1', 'beta2', 'gamma1', 'eps', 'kappa', 'L'] as const) {
    for (const value of [spec[name] ?? 0].flat())
      check(name, value, 'a number that f32 holds', Math.abs(value) <= largest)
  }
  const { sign = -1 } = spec
  check('sign', sign, '1 or -1', Math.abs(sign) === 1)
  if (type === 'complex') {
    const { beta1 = 0.7, beta2 = 0.1 } = spec
    const modulus = Math.hypot(beta1, beta2)
    if (!(modulus < 1)) throw invalidSpec(`${path}: |beta1 + i beta2| must be below 1, is ${modulus}`)
    return
  }
  if (type === 'adam') {
    const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, adamLayers = [] } = spec
    check('beta1', beta1, 'in [0, 1)', beta1 >= 0 && beta1 < 1)
    check('beta2', beta2, 'in [0, 1)', beta2 >= 0 && beta2 < 1)
    check('eps', eps, 'above 1.2e-38', eps >= smallestNormal)
    for (const layer of adamLayers) check('adam_layers', layer, `a MoE layer below ${depth}`, layer < depth)
  }
  const robust = type === 'robust'
  for (let layer = 0; layer < depth; layer++) {
    const mu = at(spec.mu, layer) ?? (robust ? 0.2 : 0.7)
    const gamma = at(spec.gamma, layer) ?? (robust ? 1.25 : 1)
    check('mu', mu, 'between -1 and 1: the state diverges otherwise', Math.abs(mu) < 1)
    if (robust) checkRobust(mu, gamma, spec.L ?? 1, path)
    if (type === 'nesterov')
      check('gamma', gamma, 'a number whose product with mu f32 holds', inF32(gamma * mu))
  }
}

/** native/layer/momentum.cc says why |alpha| < 1 is what the step needs. */
function checkRobust(mu: number, gamma: number, L: number, path: string): void {
  if (!(gamma > 1)) throw invalidSpec(`${path}.gamma must be above 1 for 'robust', got ${gamma}`)
  if (!(L > 0)) throw invalidSpec(`${path}.L must be above 0, got ${L}`)
  const alpha = (gamma * mu ** 3) / (gamma - 1)
  if (!(Math.abs(alpha) < 1)) {
    throw invalidSpec(
      `${path}: 'robust' with mu ${mu} and gamma ${gamma} is unstable: alpha = gamma mu^3 / (gamma - 1) must lie ` +
        `between -1 and 1, is ${alpha}`,
    )
  }
  const shape = (1 - mu) ** 2 * (1 + mu)
  const beta = (gamma * shape) / L
  const eps = mu ** 3 / ((gamma - 1) * shape)
  if (!inF32(beta) || !inF32(eps * beta)) throw invalidSpec(`${path}.L is too small, got ${L}`)
}

const inF32 = (value: number): boolean => Math.abs(value) <= largest

const at = (value: number | readonly number[] | undefined, layer: number): number | undefined =>
  typeof value === 'object' ? value[layer] : value
