import type { Calibration, NativeExpert, NativeMoe, TensorSource } from '../../binding'
import { abortable } from '../native'
import { type QuantizeSettings, nativeOptions } from './quantize_options'

/** Scales of one layer; all are powers of two, so that folding them changes no bit of what the model computes. */
export interface LayerScales {
  /** [H] columns of gate, up, router and shared expert; its inverse goes into the norm */
  input?: Float32Array
  /** [I] per expert: columns of down; its inverse goes into the rows of up. Absent: 1 */
  units: ReadonlyMap<number, Float32Array>
  report: SmoothReport
}

/** What smoothing found. */
export interface SmoothReport {
  kind: 'awq' | 'eaquant'
  /** largest scale over the smallest, of the layer's inputs */
  span: number
  /** of the search: the exponent r, and the rounding error of gate and up with the scales over that without */
  power?: number
  gain?: number
  /** experts whose down projection got scales as well */
  downs?: number
}

/** Finds the scales of one layer (specs/quantization.md 2.5, 2.6). */
export async function layerScales(
  sums: Calibration,
  layer: number,
  moe: NativeMoe,
  settings: QuantizeSettings,
): Promise<LayerScales | undefined> {
  if (settings.smooth === 'none') return undefined
  return settings.smooth === 'awq'
    ? awq(sums, layer, moe, settings)
    : eaquant(sums, layer, moe, settings.signal)
}

const inputsOf = ({ gate, up }: NativeExpert): TensorSource[] => (gate === undefined ? [up] : [gate, up])

/** Ranges of everything that reads the norm: experts, router, shared expert and its gate. */
async function eaquant(
  sums: Calibration,
  layer: number,
  moe: NativeMoe,
  signal: AbortSignal | undefined,
): Promise<LayerScales> {
  const consumers = moe.experts.map((expert) => ({ weights: inputsOf(expert) }))
  consumers.push({ weights: [moe.routerWeight] })
  if (moe.shared !== undefined) consumers.push({ weights: inputsOf(moe.shared) })
  const { scale } = await abortable(signal, (cancel) =>
    sums.smoothing(layer, { kind: 'eaquant', part: 'input' }, consumers, cancel),
  )
  return { input: scale, units: new Map(), report: { kind: 'eaquant', span: span(scale) } }
}

/**
 * One search for the layer over gate and up of all experts, each under its own moments, and one per expert for down where
 * its scales can be folded.
 */
async function awq(
  sums: Calibration,
  layer: number,
  moe: NativeMoe,
  settings: QuantizeSettings,
): Promise<LayerScales> {
  // Of a mix the format in the middle: the scales must be one for all.
  const format = settings.bits === undefined ? settings.format : settings.bits < 2 ? 'w2' : 'w3'
  const counts = sums.stats().find((stats) => stats.layer === layer)!.counts
  const find = (part: 'input' | 'units', consumers: { expert: number; weights: TensorSource[] }[]) => {
    const cols = consumers[0]!.weights[0]!.shape[1]!
    const { group = 0, symmetric = true } = nativeOptions(settings, format, 'mse', cols)
    const search = settings.method !== 'rtn'
    return abortable(settings.signal, (cancel) =>
      sums.smoothing(layer, { kind: 'awq', part, format, group, symmetric, search }, consumers, cancel),
    )
  }
  const experts = moe.experts.map((expert, i) => ({ expert: i, weights: inputsOf(expert) }))
  const { scale, power, loss, lossPlain } = await find('input', experts)
  const units = new Map<number, Float32Array>()
  for (const [i, expert] of moe.experts.entries()) {
    if (counts[i] === 0 || !foldsIntoUp(moe, expert)) continue
    const found = await find('units', [{ expert: i, weights: [expert.down] }])
    if (found.scale.some((value) => value !== 1)) units.set(i, found.scale)
  }
  return {
    input: scale,
    units,
    report: {
      kind: 'awq',
      span: span(scale),
      power,
      gain: lossPlain > 0 ? loss / lossPlain : 1,
      downs: units.size,
    },
  }
}

/** down(act(g) * u) is linear in u, unless u is clamped or shifted on its way or there is no gate. */
function foldsIntoUp({ glu }: NativeMoe, { gate, upBias }: NativeExpert): boolean {
  return gate !== undefined && upBias === undefined && glu?.limit === undefined && (glu?.beta ?? 0) === 0
}

const span = (scale: Float32Array) => Math.max(...scale) / Math.min(...scale)

export const inverse = (scale: Float32Array): Float32Array => scale.map((value) => 1 / value)
