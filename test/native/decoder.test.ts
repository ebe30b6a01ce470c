import { V, head, layers, referenceLogits } from './decoder_reference'
import { addon, codeOf, expectClose } from './helpers'
import type { Decoder } from '../../binding'

const ids = Int32Array.from([3, 17, 0, 29, 4, 4, 8])
const T = ids.length
const greedy = { temperature: 0, topP: 1, topK: 0, seed: 1 }
// two layers of sums of order ten
const tolerance = 2e-4

async function build(precision: 'exact' | 'fast' = 'exact'): Promise<Decoder> {
  const decoder = await addon.Decoder.create(head, precision)
  await Promise.all(layers.map((layer) => decoder.addLayer(layer)))
  decoder.finish()
  return decoder
}

describe('Decoder', () => {
  let decoder: Decoder
  const expected = referenceLogits([...ids])
  beforeAll(async () => {
    decoder = await build()
  })

  test('logits agree with double precision', async () => {
    expectClose(await decoder.forward(ids, undefined, 'all'), expected.flat(), tolerance)
    expectClose(await decoder.forward(ids, undefined, 'last'), expected[T - 1]!, tolerance)
    expect(decoder.bytes).toBeGreaterThan(0)
  })

  test('a cache continues where the last call ended', async () => {
    const cache = new addon.KvCache(decoder, 16)
    expect([cache.length, cache.capacity]).toEqual([0, 16])
    const whole = await decoder.forward(ids, undefined, 'all')
    const first = await decoder.forward(ids.subarray(0, 4), cache, 'all')
    expect(cache.length).toBe(4)
    const rest = await decoder.forward(ids.subarray(4), cache, 'all')
    expect([...first, ...rest]).toEqual([...whole])
    expect(cache.bytes).toBeGreaterThan(0)
    cache.truncate(4)
    expect(await decoder.forward(ids.subarray(4), cache, 'all')).toEqual(rest)
    expect(await codeOf(() => decoder.forward(new Int32Array(10), cache, 'all'))).toBe(
      'ERR_SMOE_CONTEXT_OVERFLOW',
    )
    expect(cache.length).toBe(7)
  })

  test('step samples the next token and appends', async () => {
    const cache = new addon.KvCache(decoder, 64)
    const next = await decoder.step(ids, cache, greedy)
    const last = expected[T - 1]!
    expect(next).toBe(last.indexOf(Math.max(...last)))
    expect(cache.length).toBe(T)
    const draw = async (seed: number) => {
      const own = new addon.KvCache(decoder, 64)
      const tokens = [await decoder.step(ids, own, { temperature: 2, topP: 0.95, topK: 20, seed })]
      for (let i = 0; i < 20; i++) {
        tokens.push(
          await decoder.step(Int32Array.of(tokens.at(-1)!), own, {
            temperature: 2,
            topP: 0.95,
            topK: 20,
            seed,
          }),
        )
      }
      return tokens
    }
    expect(await draw(5)).toEqual(await draw(5))
    expect(await draw(5)).not.toEqual(await draw(6))
  })

  test('nll is minus the log-probability of each target', async () => {
    const targets = Int32Array.from([...ids.subarray(1), 2])
    const reference = expected.map(
      (row, t) => Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0)) - row[targets[t]!]!,
    )
    expectClose(await decoder.nll(ids, targets), reference, tolerance)
  })

  test('trace shows every MoE layer', async () => {
    const { logits, layers: traces } = await decoder.trace(ids)
    expectClose(logits, expected.flat(), tolerance)
    expect(traces).toHaveLength(1)
    const [trace] = traces
    expect([trace!.layer, trace!.slots, trace!.experts]).toEqual([1, 2, 5])
    expect(trace!.ids).toHaveLength(T * 2)
    expect(trace!.routerLogits).toHaveLength(T * 5)
    expectClose(
      trace!.residualOut,
      trace!.residualIn.map((value, i) => value + trace!.output[i]!),
      1e-6,
    )
  })

  test('counts', async () => {
    decoder.resetStats()
    await decoder.forward(ids, undefined, 'last')
    expect(decoder.counts()).toHaveLength(1)
    expect(decoder.counts()[0]!.reduce((a, b) => a + b)).toBe(T * 2)
    decoder.resetStats()
    expect(decoder.counts()[0]!.every((count) => count === 0)).toBe(true)
  })

  test('a cache takes one call at a time, and only its own decoder', async () => {
    const cache = new addon.KvCache(decoder, 64)
    const running = decoder.forward(ids, cache, 'last')
    expect(await codeOf(() => decoder.step(ids, cache, greedy))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    await running
    expect(cache.length).toBe(T)
    const other = await build('fast')
    expect(await codeOf(() => other.forward(ids, cache, 'last'))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    const mine = new addon.KvCache(other, 8)
    const call = other.forward(ids, mine, 'last')
    other.dispose()
    mine.dispose()
    expect(await call).toHaveLength(V)
    expect(await codeOf(() => other.forward(ids, undefined, 'last'))).toBe('ERR_SMOE_DISPOSED')
    expect(await codeOf(() => mine.length)).toBe('ERR_SMOE_DISPOSED')
    expect([other.bytes, mine.bytes]).toEqual([0, 0])
  })

  test('refuses what is not a token, before any work', async () => {
    const cache = new addon.KvCache(decoder, 64)
    for (const bad of [V, -1, 2 ** 31 - 1]) {
      expect(await codeOf(() => decoder.forward(Int32Array.of(1, bad), cache, 'all'))).toBe(
        'ERR_SMOE_TOKEN_OUT_OF_RANGE',
      )
      expect(await codeOf(() => decoder.nll(ids.subarray(0, 1), Int32Array.of(bad)))).toBe(
        'ERR_SMOE_TOKEN_OUT_OF_RANGE',
      )
    }
    expect(await codeOf(() => decoder.forward(new Int32Array(0), cache, 'all'))).toBe(
      'ERR_SMOE_INVALID_ARGUMENT',
    )
    expect(cache.length).toBe(0)
  })

  test('is built in order: create, addLayer, finish', async () => {
    const young = await addon.Decoder.create(head, 'exact')
    expect(await codeOf(() => young.finish())).toBe('ERR_SMOE_SHAPE_MISMATCH')
    expect(await codeOf(() => young.forward(ids, undefined, 'all'))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    expect(await codeOf(() => new addon.KvCache(young, 4))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    const adding = young.addLayer(layers[0]!)
    expect(await codeOf(() => young.finish())).toBe('ERR_SMOE_INVALID_ARGUMENT')
    await adding
    young.finish()
    expect(await codeOf(() => young.addLayer(layers[1]!))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    expect(await young.forward(ids, undefined, 'last')).toHaveLength(V)
    const cancelled = new addon.CancelToken()
    cancelled.cancel()
    expect(await codeOf(() => addon.Decoder.create(head, 'exact', cancelled))).toBe('ERR_SMOE_CANCELLED')
  })
})
