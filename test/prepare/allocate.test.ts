import fc from 'fast-check'
import { type AllocationProblem, allocate } from '../../lib/prepare/allocate'
import { chooseFormats, layerCosts } from '../../lib/prepare/plan_quantize'
import { expectFailure } from '../helpers/errors'

/** Every choice there is. */
function bruteForce({ cost, size, budget, required = [] }: AllocationProblem): number {
  let best = Infinity
  const walk = (item: number, price: number, used: number, met: number[]) => {
    if (used > budget) return
    if (item === cost.length) {
      if (required.every((option) => met.includes(option))) best = Math.min(best, price)
      return
    }
    cost[item]!.forEach((more, j) => walk(item + 1, price + more, used + size[item]![j]!, [...met, j]))
  }
  walk(0, 0, 0, [])
  return best
}

test('V9: PMQ by hand', () => {
  const phi = [0.5, 0.25, 0.15, 0.1]
  const weight = [0.45, 0.3, 0.15, 0.1]
  const eps = [
    [4, 1, 0.4],
    [3, 1.2, 0.5],
    [6, 2, 0.6],
    [2, 0.8, 0.3],
  ]
  const stats = { tokens: 1, counts: Float64Array.from(phi), weights: Float64Array.from(weight) }
  const squared = eps.map((row) => row.map((value) => value ** 2))
  const costs = layerCosts(stats, squared, { alpha: 1, beta: 1, gamma: 2 })
  const expected = [3.6, 0.225, 0.036, 0.675, 0.108, 0.01875, 0.81, 0.09, 0.0081, 0.04, 0.0064, 0.0009]
  costs.flat().forEach((value, i) => expect(value).toBeCloseTo(expected[i]!, 12))
  const formats = ['w1', 'w2', 'w3'] as const
  const plan = chooseFormats(costs, { bits: 2, formats, required: ['w3', 'w2'] })
  expect(plan.formats).toEqual(['w3', 'w2', 'w2', 'w1'])
  expect(plan.cost).toBeCloseTo(0.274, 12)
  expect(plan.size).toBe(8)
})

const problem = fc
  .record({ items: fc.integer({ min: 1, max: 6 }), options: fc.integer({ min: 1, max: 4 }) })
  .chain(({ items, options }) => {
    const table = (value: fc.Arbitrary<number>) =>
      fc.array(fc.array(value, { minLength: options, maxLength: options }), {
        minLength: items,
        maxLength: items,
      })
    return fc.record({
      cost: table(fc.double({ min: 0, max: 10, noNaN: true })),
      size: table(fc.integer({ min: 0, max: 5 })),
      budget: fc.integer({ min: 0, max: 25 }),
      required: fc.uniqueArray(fc.integer({ min: 0, max: options - 1 }), { maxLength: 2 }),
    })
  })

test('equals brute force, keeps the budget and the required options, and is never below the relaxation', () => {
  let feasible = 0
  fc.assert(
    fc.property(problem, (p) => {
      const best = bruteForce(p)
      if (best === Infinity) {
        expect(() => allocate(p)).toThrow(RangeError)
        return
      }
      feasible++
      const { choice, cost, size, bound } = allocate(p)
      expect(cost).toBeCloseTo(best, 9)
      expect(choice.reduce((sum, j, i) => sum + p.cost[i]![j]!, 0)).toBeCloseTo(cost, 9)
      expect(choice.reduce((sum, j, i) => sum + p.size[i]![j]!, 0)).toBe(size)
      expect(size).toBeLessThanOrEqual(p.budget)
      for (const option of p.required) expect(choice).toContain(option)
      expect(bound).toBeLessThanOrEqual(cost + 1e-9)
    }),
    { numRuns: 500 },
  )
  expect(feasible).toBeGreaterThan(100)
})

test('256 experts at 3 bits are solved, close to the relaxation', () => {
  const cost = Array.from({ length: 256 }, (_, i) => [1, 2, 3].map((b) => (1 + (i % 17)) / 4 ** b))
  const {
    size,
    cost: total,
    bound,
  } = allocate({
    cost,
    size: cost.map(() => [1, 2, 3]),
    budget: 512,
    required: [1, 2],
  })
  expect(size).toBe(512)
  expect(total).toBeGreaterThanOrEqual(bound - 1e-9)
  expect(total).toBeLessThan(bound * 1.01)
})

test('an expert without calibration has a finite cost that rises as bits fall', () => {
  const stats = { tokens: 100, counts: Float64Array.of(90, 0, 10), weights: Float64Array.of(45, 0, 5) }
  const costs = layerCosts(stats, [[4, 1], undefined, [2, 0.5]], { alpha: 1, beta: 1, gamma: 2 })
  expect(costs.flat().every((value) => Number.isFinite(value) && value > 0)).toBe(true)
  expect(costs[1]![0]).toBeGreaterThan(costs[1]![1]!)
  expect(costs[1]![0]).toBeLessThan(costs[2]![0]!)
})

test.each([
  ['a budget below the least', { budget: 1 }, /budget must be enough/],
  ['a cost that is not finite', { cost: [[NaN], [1]] }, /cost\[0\] must be finite/],
  ['tables of different length', { size: [[1]] }, /size must be one row per row/],
  ['a size that is no whole number', { size: [[1], [0.5]] }, /size\[1\] must be whole/],
])('refuses %s', async (_, change, message) => {
  const good = { cost: [[1], [1]], size: [[1], [1]], budget: 2 }
  expect(allocate(good).choice).toEqual([0, 0])
  await expectFailure(() => allocate({ ...good, ...change }), 'ERR_SMOE_INVALID_ARGUMENT', message)
})
