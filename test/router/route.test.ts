import fc from 'fast-check'
import { Router, type RouterSpec, Tensor } from '../../lib'
import { random, randomArray, relativeError } from '../helpers/numbers'
import { routeOracle } from '../helpers/oracle'

const grid = fc.integer({ min: -16, max: 16 }).map((n) => n / 4)
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined })

/** Specs for E experts. */
function specs(experts: number): fc.Arbitrary<RouterSpec> {
  const topK = fc.record({ kind: fc.constant('topK' as const), k: fc.integer({ min: 1, max: experts }) })
  const divisors = [1, 2, 3, 4, 6, 8].filter((g) => experts % g === 0 && experts / g >= 2)
  const groupTopK = fc.constantFrom(...divisors).chain((G) =>
    fc.integer({ min: 1, max: G }).chain((Kg) =>
      fc.record({
        kind: fc.constant('groupTopK' as const),
        k: fc.integer({ min: 1, max: (experts / G) * Kg }),
        G: fc.constant(G),
        Kg: fc.constant(Kg),
        reduce: fc.constantFrom('max' as const, 'sum2' as const),
        fill: fc.constantFrom('-inf' as const, 0 as const),
      }),
    ),
  )
  const eps = fc.constantFrom(
    ['none'] as const,
    ['add', 1e-20] as const,
    ['add', 1e-2] as const,
    ['clampMin', 0.5] as const,
    ['zeroSafe'] as const,
  )
  return fc.record({
    score: fc.record({ act: fc.constantFrom('identity' as const, 'softmax' as const, 'sigmoid' as const) }),
    key: maybe(
      fc.record({
        modelBias: fc.array(
          grid.map((b) => b / 4),
          { minLength: experts, maxLength: experts },
        ),
      }),
    ),
    select: fc.oneof(topK, divisors.length > 0 ? groupTopK : topK),
    weigh: maybe(
      fc.record({
        source: maybe(fc.constantFrom('score' as const, 'logit' as const)),
        post: maybe(fc.constantFrom('none' as const, 'softmax' as const, 'sigmoid' as const)),
        norm: maybe(fc.record({ p: fc.constantFrom(0.5, 1, 2, 3), eps })),
        scale: maybe(fc.constantFrom(1, 2.5, -1)),
      }),
    ),
  })
}

const cases = fc.integer({ min: 2, max: 24 }).chain((experts) =>
  fc.record({
    spec: specs(experts),
    logits: fc.array(fc.array(grid, { minLength: experts, maxLength: experts }), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
)

/** Compares routeSync with the oracle; false when a comparison was too close for f32 to decide alike. */
function agrees(spec: RouterSpec, rows: number[][]): boolean {
  const expected = rows.map((row) => routeOracle(spec, row))
  if (expected.some(({ margin }) => margin < 3e-6)) return false
  const experts = rows[0]!.length
  const { ids, weights, count } = new Router(spec).routeSync(Tensor.from(rows.flat(), [rows.length, experts]))
  const k = spec.select.k
  expect(ids.shape).toEqual([rows.length, k])
  expected.forEach((row, t) => {
    const used = row.ids.length
    expect(count.data()[t]).toBe(used)
    expect(Array.from(ids.data().subarray(t * k, (t + 1) * k))).toEqual([
      ...row.ids,
      ...Array(k - used).fill(-1),
    ])
    const found = weights.data().subarray(t * k, (t + 1) * k)
    row.weights.forEach((w, j) => {
      // Sums that cancel have no meaningful quotient; a weight of 0 stands for 0/0.
      if (!Number.isFinite(w) || Math.abs(w) > 1e4) return expect(Number.isFinite(found[j])).toBe(true)
      expect(Math.abs(found[j]! - w)).toBeLessThanOrEqual(2e-5 * Math.max(1, Math.abs(w) ** 2))
    })
    found.subarray(used).forEach((w) => expect(w).toBe(0))
  })
  return true
}

test('any supported spec routes as the wire form says', () => {
  let compared = 0
  fc.assert(
    fc.property(cases, ({ spec, logits }) => {
      if (agrees(spec, logits)) compared++
    }),
    { numRuns: 1000 },
  )
  expect(compared).toBeGreaterThan(500)
})

test('ties go to the lower id, also between groups', () => {
  const row = Array(8).fill(1)
  expect(agrees({ score: { act: 'softmax' }, select: { kind: 'topK', k: 3 } }, [row])).toBe(true)
  const select = { kind: 'groupTopK', k: 3, G: 4, Kg: 2, reduce: 'sum2', fill: '-inf' } as const
  expect(agrees({ score: { act: 'sigmoid' }, select }, [row])).toBe(true)
})

test('masked, infinite and missing logits', () => {
  const spec: RouterSpec = {
    score: { act: 'softmax' },
    select: { kind: 'topK', k: 3 },
    weigh: { norm: { p: 1 } },
  }
  const router = new Router(spec)
  const { ids, weights, count } = router.routeSync(
    Tensor.from([NaN, 1, -Infinity, 2, NaN, NaN, NaN, NaN, 0, Infinity, 1, 2], [3, 4]),
  )
  expect(Array.from(count.data())).toEqual([2, 0, 3])
  expect(Array.from(ids.data())).toEqual([3, 1, -1, -1, -1, -1, 1, 0, 2])
  expect(weights.data()[0]! + weights.data()[1]!).toBeCloseTo(1, 6)
  expect(weights.data().every((w) => Number.isFinite(w))).toBe(true)
})

test('route() gives what routeSync() gives', async () => {
  const next = random(1)
  const logits = Tensor.from(randomArray(500 * 16, next, 3), [500, 16])
  const router = new Router({
    score: { act: 'softmax' },
    select: { kind: 'topK', k: 4 },
    weigh: { norm: { p: 1 } },
  })
  const a = await router.route(logits)
  const b = router.routeSync(logits)
  expect(a.ids.data()).toEqual(b.ids.data())
  expect(a.weights.data()).toEqual(b.weights.data())
  expect(a.logits).toBeUndefined()
})

test.each(['f32', 'bf16', 'f16'] as const)(
  'with weights it computes its own logits from %s hidden',
  async (dtype) => {
    const [tokens, experts, hidden] = [5, 12, 33]
    const next = random(2)
    const weight = Tensor.from(randomArray(experts * hidden, next), [experts, hidden])
    const bias = Tensor.from(randomArray(experts, next), [experts])
    const numbers = Array.from(randomArray(tokens * hidden, next))
    const input = Tensor.from(numbers, [tokens, hidden], dtype)
    const values = input.toF32Array()
    const spec: RouterSpec = { score: { act: 'sigmoid' }, select: { kind: 'topK', k: 3 } }
    using router = new Router(spec, { weight, bias })
    const { ids, weights, logits } = await router.route(input)
    expect(logits!.shape).toEqual([tokens, experts])
    const expected = Array.from({ length: tokens * experts }, (_, i) => {
      const [t, e] = [Math.floor(i / experts), i % experts]
      let sum = bias.data()[e]!
      for (let h = 0; h < hidden; h++) sum += values[t * hidden + h]! * weight.data()[e * hidden + h]!
      return sum
    })
    expect(relativeError(logits!.data(), expected)).toBeLessThan(1e-6)
    const again = new Router(spec).routeSync(logits!)
    expect(ids.data()).toEqual(again.ids.data())
    expect(weights.data()).toEqual(again.weights.data())
  },
)
