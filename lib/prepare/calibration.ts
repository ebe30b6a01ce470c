import type { Calibration, Decoder } from '../../binding'
import type { Architecture } from '../checkpoint/architecture'
import { hostDevice } from '../device'
import { rangeError } from '../errors'
import { loadDecoder } from '../model/load'
import { Tokenizer } from '../model/tokenizer'
import { abortable, guarded, native } from '../native'
import type { QuantizeSettings } from './quantize_options'

/** Sums of all layers together may take this much memory; beyond it the text is run once per group of layers. */
const memoryBudget = 4 * 2 ** 30

/** A loaded model and the windows of its calibration text. */
export class CalibrationRun {
  private constructor(
    readonly decoder: Decoder,
    /** the first `base` always, the others until the experts are balanced */
    readonly windows: readonly Int32Array[],
    readonly base: number,
    readonly settings: QuantizeSettings,
    private readonly architecture: Architecture,
  ) {}

  static async open(
    dir: string,
    architecture: Architecture,
    settings: QuantizeSettings,
  ): Promise<CalibrationRun | undefined> {
    const { calibration, signal, calibrationTokens } = settings
    if (calibration === undefined) return undefined
    const all =
      typeof calibration === 'string'
        ? await Tokenizer.open(dir).encode(calibration, false, signal)
        : calibration
    const context = Math.min(settings.calibrationContext, architecture.maxPositions)
    const count = Math.floor(Math.min(all.length, calibrationTokens) / context)
    if (count === 0) throw rangeError('calibration', `at least one window of ${context} tokens`, all)
    const most = settings.balance > 0 ? Math.floor(all.length / context) : count
    const windows = Array.from({ length: most }, (_, i) => all.subarray(i * context, (i + 1) * context))
    const decoder = await loadDecoder(dir, architecture, { precision: 'exact', device: hostDevice, signal })
    return new CalibrationRun(decoder, windows, count, settings, architecture)
  }

  /** Groups of MoE layers whose sums fit the memory budget: [first, last) over decoder layers. */
  blocks(): [number, number][] {
    const { hidden, layers } = this.architecture
    const blocks: [number, number][] = []
    let bytes = 0
    for (const [index, { moe }] of layers.entries()) {
      if (moe === undefined) continue
      const own = moe.experts * 4 * (hidden * (hidden + 1) + moe.width * (moe.width + 1))
      if (blocks.length === 0 || bytes + own > memoryBudget) {
        blocks.push([index, index + 1])
        bytes = 0
      }
      blocks.at(-1)![1] = index + 1
      bytes += own
    }
    return blocks
  }

  /** The sums of one group of layers; the caller disposes of them. */
  async collect([firstLayer, lastLayer]: [number, number]): Promise<Calibration> {
    const { signal, onProgress } = this.settings
    const sums = guarded(() => new (native().Calibration)(this.decoder, { firstLayer, lastLayer }))
    try {
      for (const [i, window] of this.windows.entries()) {
        if (i >= this.base && this.#balanced(sums)) break
        await abortable(signal, (cancel) => sums.add(window, cancel))
        onProgress({ phase: 'calibrate', done: i + 1, total: Math.max(i + 1, this.base) })
      }
      return sums
    } catch (error) {
      sums.dispose()
      throw error
    }
  }

  /** Whether every expert got its share (EAQuant's calibration balance): `balance` times k / n of the base tokens. */
  #balanced(sums: Calibration): boolean {
    const tokens = this.base * this.windows[0]!.length
    return sums.stats().every(({ layer, counts }) => {
      const { experts, router } = this.architecture.layers[layer]!.moe!
      const target = balanceTarget(tokens, router.select.k, experts, this.settings.balance)
      return counts.every((count) => count >= target)
    })
  }

  dispose(): void {
    this.decoder.dispose()
  }
}

/** Tokens that every expert should have seen before calibration ends. */
export function balanceTarget(tokens: number, k: number, experts: number, ratio: number): number {
  return Math.ceil((ratio * k * tokens) / experts)
}
