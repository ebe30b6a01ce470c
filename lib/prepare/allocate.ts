import { rangeError } from '../errors'

/** A problem of choosing one option for every item: total size within the budget, total cost as small as can be. */
export interface AllocationProblem {
  /** cost[item][option], not negative */
  cost: readonly (readonly number[])[]
  /** size[item][option] in whole units: bits of an expert, or quarters of a bit per weight */
  size: readonly (readonly number[])[]
  /** most units in all */
  budget: number
  /** options that at least one item must get, as PMQ wants for its 3 and 2 bits */
  required?: readonly number[]
}

export interface Allocation {
  /** the option of each item */
  choice: number[]
  cost: number
  size: number
  /**
   * Least cost of the linear relaxation, where an item may be split between options: no choice can cost less. The gap
   * to `cost` says how much of it is owed to whole options and to `required`.
   */
  bound: number
}

/**
 * The exact optimum, by a dynamic programme over (item, units used, required options met): at 256 experts, a budget of
 * 768 and two required options some 0.8 million states. Of equal solutions the one with the smaller options in the
 * later items wins, so the result does not depend on anything but the problem.
 * @throws RangeError ERR_SMOE_INVALID_ARGUMENT when nothing fits the budget
 */
export function allocate(problem: AllocationProblem): Allocation {
  const { cost, size, budget, required = [] } = checked(problem)
  const masks = 1 << required.length
  const width = (budget + 1) * masks
  let best = new Float64Array(width).fill(Infinity)
  best[0] = 0
  const taken: Uint8Array[] = []
  const from: Uint8Array[] = []
  for (const [item, costs] of cost.entries()) {
    const next = new Float64Array(width).fill(Infinity)
    const option = new Uint8Array(width)
    const previous = new Uint8Array(width)
    for (let state = 0; state < width; state++) {
      if (best[state] === Infinity) continue
      const used = Math.floor(state / masks)
      const mask = state % masks
      for (const [j, price] of costs.entries()) {
        const total = used + size[item]![j]!
        if (total > budget) continue
        const met = required.indexOf(j)
        const target = total * masks + (met < 0 ? mask : mask | (1 << met))
        const sum = best[state]! + price
        if (sum >= next[target]!) continue
        next[target] = sum
        option[target] = j
        previous[target] = mask
      }
    }
    best = next
    taken.push(option)
    from.push(previous)
  }
  let end = -1
  for (let used = 0; used <= budget; used++) {
    const state = used * masks + masks - 1
    if (best[state]! < (end < 0 ? Infinity : best[end]!)) end = state
  }
  if (end < 0)
    throw rangeError('budget', 'enough for one option of every item and all required options', budget)
  const choice = new Array<number>(cost.length)
  const total = best[end]!
  for (let item = cost.length - 1, state = end; item >= 0; item--) {
    const j = taken[item]![state]!
    choice[item] = j
    state = (Math.floor(state / masks) - size[item]![j]!) * masks + from[item]![state]!
  }
  const used = choice.reduce((sum, j, item) => sum + size[item]![j]!, 0)
  return { choice, cost: total, size: used, bound: relaxation(cost, size, budget) }
}

/** The linear relaxation: along the lower hull of each item, the steps that save most per unit are taken first. */
export function relaxation(
  cost: AllocationProblem['cost'],
  size: AllocationProblem['size'],
  budget: number,
): number {
  let total = 0
  let left = budget
  const steps: { units: number; gain: number }[] = []
  for (const [item, costs] of cost.entries()) {
    const hull = lowerHull(costs.map((price, j) => [size[item]![j]!, price]))
    left -= hull[0]![0]
    total += hull[0]![1]
    for (let i = 1; i < hull.length; i++) {
      steps.push({ units: hull[i]![0] - hull[i - 1]![0], gain: hull[i - 1]![1] - hull[i]![1] })
    }
  }
  steps.sort((a, b) => b.gain / b.units - a.gain / a.units)
  for (const { units, gain } of steps) {
    if (left <= 0) break
    const part = Math.min(1, left / units)
    total -= part * gain
    left -= units
  }
  return total
}

/** Points from the smallest size on, each cheaper than the one before, with falling gain per unit. */
function lowerHull(points: [number, number][]): [number, number][] {
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1])
  const hull: [number, number][] = []
  const gain = (a: [number, number], b: [number, number]) => (a[1] - b[1]) / (b[0] - a[0])
  for (const point of points) {
    if (hull.length > 0 && (point[1] >= hull.at(-1)![1] || point[0] === hull.at(-1)![0])) continue
    while (hull.length > 1 && gain(hull.at(-2)!, hull.at(-1)!) <= gain(hull.at(-1)!, point)) hull.pop()
    hull.push(point)
  }
  return hull
}

function checked(problem: AllocationProblem): Required<AllocationProblem> {
  const { cost, size, budget, required = [] } = problem
  if (!Number.isInteger(budget) || budget < 0)
    throw rangeError('budget', 'a whole number of at least 0', budget)
  if (cost.length === 0 || cost.length !== size.length)
    throw rangeError('size', 'one row per row of cost', size)
  if (required.length > 4) throw rangeError('required', 'at most 4 options', required)
  cost.forEach((row, item) => {
    if (row.length === 0 || row.length > 255 || row.length !== size[item]!.length)
      throw rangeError(`size[${item}]`, 'as many options as cost has', size[item])
    for (const price of row) {
      if (!Number.isFinite(price) || price < 0)
        throw rangeError(`cost[${item}]`, 'finite and not negative', price)
    }
    for (const units of size[item]!) {
      if (!Number.isInteger(units) || units < 0) throw rangeError(`size[${item}]`, 'whole numbers', units)
    }
  })
  return { cost, size, budget, required }
}
