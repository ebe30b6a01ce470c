import fc from 'fast-check'
import { type Activation, MoeLayer, Router, Tensor } from '../../lib'
import { device, fewer } from '../helpers/device'
import { type LayerShape, layerOracle, plainShape, randomLayer } from '../helpers/layers'
import { random, randomArray, relativeError } from '../helpers/numbers'

const shapes: fc.Arbitrary<LayerShape & { tokens: number }> = fc
  .integer({ min: 1, max: 9 })
  .chain((experts) =>
    fc.record({
      experts: fc.constant(experts),
      hidden: fc.integer({ min: 1, max: 40 }),
      widths: fc.array(fc.integer({ min: 1, max: 37 }), { minLength: experts, maxLength: experts }),
      spec: fc.record({
        score: fc.constantFrom({ act: 'softmax' as const }, { act: 'sigmoid' as const }),
        select: fc.record({ kind: fc.constant('topK' as const), k: fc.integer({ min: 1, max: experts }) }),
        weigh: fc.constantFrom({}, { norm: { p: 1 } }, { scale: 2.5 }, { point: 'w_in' as const }),
      }),
      activation: fc.constantFrom<Activation>('silu', 'gelu_tanh', 'gelu_erf', 'relu', 'relu2', 'identity'),
      dtype: fc.constantFrom('f32' as const, 'bf16' as const, 'f16' as const),
      glu: fc.boolean(),
      biases: fc.boolean(),
      shared: fc.boolean(),
      sharedGate: fc.boolean(),
      seed: fc.nat(1e6),
      tokens: fc.integer({ min: 1, max: 20 }),
    }),
  )

// exact: f32 sums of at most 40 terms of order 1 err by a few times 40 * 2^-24 = 2e-6. fast: activations are rounded to
// bf16 (2^-9 each) before both projections, and relu2 doubles the relative error between them: 4 * 2^-9 = 8e-3, twice
// that for sums that cancel.
const tolerance = { exact: 2e-5, fast: 1.6e-2 }

test.each(['exact', 'fast'] as const)(
  '%s: random layers agree with plain double arithmetic',
  async (precision) => {
    let compared = 0
    await fc.assert(
      fc.asyncProperty(shapes, async ({ tokens, ...shape }) => {
        const description = randomLayer(shape)
        const hidden = randomArray(tokens * shape.hidden, random(shape.seed + 1))
        const rows = Array.from({ length: tokens }, (_, t) =>
          layerOracle(description, Array.from(hidden.subarray(t * shape.hidden, (t + 1) * shape.hidden))),
        )
        if (rows.some(({ margin }) => margin < 1e-4)) return
        compared++
        using layer = await MoeLayer.create({ ...description, precision })
        const input = Tensor.from(hidden, [tokens, shape.hidden])
        const found = (await layer.forward(input)).data()
        expect(layer.forwardSync(input).data()).toEqual(found)
        const expected = rows.flatMap(({ y }) => y)
        // Sums may cancel to nothing: then the error is measured against what was summed, of order 0.1.
        const norm = Math.sqrt(expected.reduce((sum, y) => sum + y * y, 0) / expected.length)
        const error = Math.sqrt(
          expected.reduce((sum, y, i) => sum + (y - found[i]!) ** 2, 0) / expected.length,
        )
        expect(error).toBeLessThanOrEqual(tolerance[precision] * Math.max(norm, 0.1))
      }),
      { numRuns: fewer(150, 5) },
    )
    expect(compared).toBeGreaterThan(fewer(75, 1))
  },
)

describe('one layer', () => {
  let layer: MoeLayer
  const hidden = Tensor.from(randomArray(6 * 24, random(7)), [6, 24])
  beforeAll(async () => {
    layer = await MoeLayer.create({ ...randomLayer(plainShape), precision: 'exact' })
  })
  afterAll(() => layer.dispose())

  test('shape facts', () => {
    expect(layer).toMatchObject({ hidden: 24, experts: 4, slots: 2, precision: 'exact', device })
    const { native, device: onGpu } = layer.memoryUsage()
    expect(native + onGpu).toBeGreaterThan(4 * (4 * 3 * 20 * 24))
  })

  test('a token gives the same bits whatever else is in the batch', () => {
    const all = layer.forwardSync(hidden).data()
    for (let t = 0; t < 6; t++) {
      const one = layer.forwardSync(Tensor.from(hidden.data().slice(t * 24, (t + 1) * 24), [1, 24]))
      expect(one.data()).toEqual(all.slice(t * 24, (t + 1) * 24))
    }
  })

  test('residual is added, and may be hidden itself', async () => {
    const y = layer.forwardSync(hidden).data()
    const residual = Tensor.from(randomArray(6 * 24, random(8)), [6, 24])
    const expected = y.map((value, i) => value + residual.data()[i]!)
    expect((await layer.forward(hidden, { residual })).data()).toEqual(expected)
    expect(layer.forwardSync(hidden, { residual: hidden }).data()).toEqual(
      y.map((v, i) => v + hidden.data()[i]!),
    )
  })

  test('out is filled and returned; it may be hidden itself', async () => {
    const expected = layer.forwardSync(hidden).data()
    const out = Tensor.zeros([6, 24])
    expect(layer.forwardSync(hidden, { out })).toBe(out)
    expect(out.data()).toEqual(expected)
    const own = Tensor.from(hidden.data().slice(), [6, 24])
    expect(await layer.forward(own, { out: own })).toBe(own)
    expect(own.data()).toEqual(expected)
  })

  test('hidden may change once forward() has returned its promise', async () => {
    const expected = layer.forwardSync(hidden).data()
    const own = Tensor.from(hidden.data().slice(), [6, 24])
    const promise = layer.forward(own)
    own.data().fill(0)
    expect((await promise).data()).toEqual(expected)
  })

  test.each(['bf16', 'f16'] as const)(
    '%s in, %s out: the f32 result of the same numbers, rounded once',
    (dtype) => {
      const narrow = Tensor.from(Array.from(hidden.data()), [6, 24], dtype)
      const wide = layer.forwardSync(Tensor.from(narrow.toF32Array(), [6, 24])).data()
      const found = layer.forwardSync(narrow)
      expect(found.dtype).toBe(dtype)
      expect(found.data()).toEqual(Tensor.from(Array.from(wide), [6, 24], dtype).data())
    },
  )

  test('given assignments replace the router', async () => {
    const description = randomLayer(plainShape)
    using router = new Router(plainShape.spec, { weight: description.routerWeight })
    const routing = await router.route(hidden)
    const own = layer.forwardSync(hidden).data()
    expect(relativeError(layer.forwardSync(hidden, { routing }).data(), own)).toBeLessThan(1e-6)
    expect(relativeError((await layer.forward(hidden, { router })).data(), own)).toBeLessThan(1e-6)
    const none = { ids: Tensor.from(Array(6).fill(-1), [6, 1], 'i32'), weights: Tensor.zeros([6, 1]) }
    expect(layer.forwardSync(hidden, { routing: none }).data()).toEqual(new Float32Array(6 * 24))
  })

  test('statistics count assignments', () => {
    layer.resetStats()
    expect(layer.stats()).toMatchObject({ total: 0, entropy: 0 })
    const ids = Tensor.from([0, 1, 0, 2, 0, -1], [6, 1], 'i32')
    layer.forwardSync(hidden, { routing: { ids, weights: Tensor.from(Array(6).fill(1), [6, 1]) } })
    const { counts, total, share, entropy } = layer.stats()
    expect(Array.from(counts)).toEqual([3, 1, 1, 0])
    expect(total).toBe(5)
    expect(share[0]).toBe(0.6)
    expect(entropy).toBeCloseTo(-(0.6 * Math.log(0.6) + 0.4 * Math.log(0.2)), 12)
  })

  test('no tokens, no rows', async () => {
    const none = Tensor.zeros([0, 24])
    expect((await layer.forward(none)).shape).toEqual([0, 24])
    expect(layer.forwardSync(none).data()).toHaveLength(0)
  })

  test('calls may overlap', async () => {
    const expected = layer.forwardSync(hidden).data()
    const results = await Promise.all(Array.from({ length: 32 }, () => layer.forward(hidden)))
    for (const result of results) expect(result.data()).toEqual(expected)
  })
})
