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
    readonly windows: readonly Int32Array[],
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
    const windows = Array.from({ length: count }, (_, i) => all.slice(i * context, (i + 1) * context))
    const decoder = await loadDecoder(dir, architecture, 'exact', hostDevice, signal, () => undefined)
    return new CalibrationRun(decoder, windows, settings, architecture)
  }

  get tokens(): number {
    return this.windows.reduce((sum, window) => sum + window.length, 0)
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
        await abortable(signal, (cancel) => sums.add(window, cancel))
        onProgress({ phase: 'calibrate', done: i + 1, total: this.windows.length })
      }
      return sums
    } catch (error) {
      sums.dispose()
      throw error
    }
  }

  dispose(): void {
    this.decoder.dispose()
  }
}
