import {
  addon,
  codeOf,
  detach,
  expectClose,
  expert,
  expertSource,
  multiply,
  randomNumbers,
  rows,
  runExpert,
  runMoe,
  tensor,
  tinyMoe,
} from './helpers'

const moe = tinyMoe()
const T = 7
const x = randomNumbers(T * moe.hidden, 99)
const expected = rows(x, moe.hidden).flatMap((row) => runMoe(moe, row))

describe('MoeLayer', () => {
  test('forward and forwardSync agree with double precision and with each other', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    expect([layer.hidden, layer.expertCount, layer.slots]).toEqual([24, 5, 2])
    expect(layer.bytes).toBeGreaterThan(5 * 3 * 24 * 20 * 4)
    const sync = new Float32Array(x.length)
    layer.forwardSync(x, 'f32', T, sync)
    expectClose(sync, expected)
    const given = new Float32Array(x.length)
    expect(await layer.forward(x, 'f32', T, given)).toBe(given)
    expect(given).toEqual(sync)
    expect(await layer.forward(x, 'f32', T, undefined)).toEqual(sync)
    layer.dispose()
  })

  test('f16 and bf16 rows are widened on the way in and rounded on the way out', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    for (const [dtype, ulp] of [
      ['f16', 2 ** -10],
      ['bf16', 2 ** -7],
    ] as const) {
      const half = addon.fromF32(x, dtype)
      const wide = addon.toF32(half, dtype)
      const reference = rows(wide, moe.hidden).flatMap((row) => runMoe(moe, row))
      const out = await layer.forward(half, dtype, T, undefined)
      expectClose(addon.toF32(out as Uint16Array, dtype), reference, ulp)
      const sync = new Uint16Array(x.length)
      layer.forwardSync(half, dtype, T, sync)
      expect(sync).toEqual(out)
    }
  })

  test('residual, given routing, shared expert and its gate', async () => {
    const shared = expert(moe.hidden, 12, 500)
    const sharedGate = tensor([1, moe.hidden], 501)
    const desc = { ...moe.desc, shared: expertSource(shared), sharedGate: sharedGate.source }
    const layer = await addon.MoeLayer.create(desc, 'exact')
    const ids = Int32Array.from({ length: T * 3 }, (_, i) => (i % 3 === 2 ? -1 : i % 5))
    const weights = randomNumbers(T * 3, 7)
    const residual = randomNumbers(x.length, 8)
    const out = await layer.forward(x, 'f32', T, undefined, { residual, routing: { ids, weights, slots: 3 } })
    const reference = rows(x, moe.hidden).flatMap((row, t) => {
      const given = {
        ids: [...ids.subarray(3 * t, 3 * t + 3)],
        weights: [...weights.subarray(3 * t, 3 * t + 3)],
      }
      const factor = 1 / (1 + Math.exp(-multiply(sharedGate, row)[0]!))
      const always = runExpert(shared, row)
      return runMoe(moe, row, given).map(
        (value, i) => residual[t * moe.hidden + i]! + value + factor * always[i]!,
      )
    })
    expectClose(out, reference)
    expect(layer.counts()).toEqual(
      Float64Array.from([0, 1, 2, 3, 4], (id) => ids.filter((other) => other === id).length),
    )
  })

  test('counts add up over calls, only over those that succeed', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'fast')
    const sum = () => layer.counts().reduce((a, b) => a + b, 0)
    await layer.forward(x, 'f32', T, undefined)
    layer.forwardSync(x, 'f32', T, new Float32Array(x.length))
    expect(sum()).toBe(2 * T * 2)
    const bad = x.slice()
    bad[3 * moe.hidden + 1] = NaN
    await expect(layer.forward(bad, 'f32', T, undefined)).rejects.toMatchObject({
      code: 'ERR_SMOE_NON_FINITE_INPUT',
      message: expect.stringContaining('row 3'),
    })
    expect(sum()).toBe(2 * T * 2)
    layer.resetStats()
    expect(sum()).toBe(0)
  })

  test('no tokens are no work', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'fast')
    expect(await layer.forward(new Float32Array(0), 'f32', 0, undefined)).toHaveLength(0)
    layer.forwardSync(new Float32Array(0), 'f32', 0, new Float32Array(0))
  })

  test('inputs may be overwritten and transferred while a call is in flight', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const reused = x.slice()
    const first = layer.forward(reused, 'f32', T, undefined)
    reused.fill(NaN)
    detach(reused)
    expectClose(await first, expected)
  })

  test('an output that is transferred away rejects and is not written', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const out = new Float32Array(x.length)
    const call = layer.forward(x, 'f32', T, out)
    detach(out)
    expect(await codeOf(() => call)).toBe('ERR_SMOE_DETACHED_BUFFER')
  })

  test('out may be the input of a synchronous call', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const inPlace = x.slice()
    layer.forwardSync(inPlace, 'f32', T, inPlace)
    expectClose(inPlace, expected)
  })

  test('dispose during a call lets it finish', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const call = layer.forward(x, 'f32', T, undefined)
    layer.dispose()
    layer.dispose()
    expectClose(await call, expected)
    expect(layer.bytes).toBe(0)
    expect(await codeOf(() => layer.forward(x, 'f32', T, undefined))).toBe('ERR_SMOE_DISPOSED')
  })

  test('many calls at once settle in order', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const order: number[] = []
    await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        expectClose(await layer.forward(x, 'f32', T, undefined), expected)
        order.push(i)
      }),
    )
    expect(order).toEqual([...order.keys()])
  })
})
