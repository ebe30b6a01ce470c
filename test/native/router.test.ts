import { addon, expectClose, multiply, randomNumbers, rows, tensor, topK } from './helpers'

const E = 9
const T = 300 // enough for the parallel path
const config = { experts: E, score: 'softmax', select: 'topK', k: 3, normP: 1 } as const

describe('routing', () => {
  test('route and routeSync agree with a plain computation', async () => {
    const logits = randomNumbers(T * E, 5, 3)
    const sync = addon.routeSync(config, logits, T)
    rows(logits, E).forEach((row, t) => {
      const { ids, weights } = topK([...row], 3)
      expect([...sync.ids.subarray(3 * t, 3 * t + 3)]).toEqual(ids)
      expectClose(sync.weights.subarray(3 * t, 3 * t + 3), weights, 1e-6)
    })
    expect(sync.count).toEqual(new Int32Array(T).fill(3))
    expect(sync.logits).toBeUndefined()
    expect(await addon.route(config, logits, T)).toEqual(sync)
  })

  test('a selection bias changes the choice, not the weight', () => {
    const modelBias = Float32Array.from({ length: E }, (_, e) => (e === 7 ? 100 : 0))
    const logits = randomNumbers(E, 6)
    const { ids, weights } = addon.routeSync({ ...config, k: 1, normP: 0, modelBias }, logits, 1)
    expect(ids[0]).toBe(7)
    expect(weights[0]).toBeLessThan(1)
  })

  test('Router computes the logits, in f32 whatever comes in', async () => {
    const H = 40
    const weight = tensor([E, H], 11)
    const bias = randomNumbers(E, 12)
    const router = new addon.Router(config, weight.source, bias)
    const hidden = addon.fromF32(randomNumbers(T * H, 13), 'bf16')
    const wide = addon.toF32(hidden, 'bf16')
    const routing = await router.route(hidden, 'bf16', T)
    const logits = rows(wide, H).flatMap((row) => multiply(weight, row).map((value, e) => value + bias[e]!))
    expectClose(routing.logits!, logits)
    const same = addon.routeSync(config, routing.logits!, T)
    expect(routing.ids).toEqual(same.ids)
    expect(routing.weights).toEqual(same.weights)
    const call = router.route(wide, 'f32', T)
    router.dispose()
    router.dispose()
    expect((await call).ids).toEqual(same.ids)
  })

  test('conversions round to nearest even and come back exactly', () => {
    const values = Float32Array.from([0, -0, 1, -2.5, 65504, 1 + 2 ** -8, 1 + 3 * 2 ** -8, Infinity])
    expect(addon.toF32(addon.fromF32(values, 'bf16'), 'bf16')).toEqual(
      Float32Array.from([0, -0, 1, -2.5, 65536, 1, 1 + 2 ** -6, Infinity]),
    )
    expect(addon.toF32(addon.fromF32(values, 'f16'), 'f16')).toEqual(values)
  })
})
