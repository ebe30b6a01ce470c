import fc from 'fast-check'
import { hebfOrder, nestedDemand } from '../../lib/prepare/hebf'

test('the plane with the most requests goes first, an expert never skips a plane', () => {
  const demand = nestedDemand(3, 2, [
    { expert: 0, bits: 4 },
    { expert: 0, bits: 2 },
    { expert: 1, bits: 3 },
    { expert: 1, bits: 3 },
    { expert: 1, bits: 2 },
  ])
  expect(demand).toEqual([[2, 1, 1], [3, 2], []])
  expect(hebfOrder(demand)).toEqual([
    { expert: 1, plane: 0 },
    { expert: 0, plane: 0 },
    { expert: 1, plane: 1 },
    { expert: 0, plane: 1 },
    { expert: 0, plane: 2 },
  ])
})

test('every wanted plane is read once, in falling demand', () => {
  const requests = fc.array(
    fc.record({ expert: fc.integer({ min: 0, max: 5 }), bits: fc.integer({ min: 2, max: 6 }) }),
    { minLength: 1, maxLength: 40 },
  )
  fc.assert(
    fc.property(requests, (list) => {
      const demand = nestedDemand(6, 2, list)
      const order = hebfOrder(demand)
      const loads = order.map(({ expert, plane }) => demand[expert]![plane]!)
      // Nested planes have falling demand, so the merged order falls too.
      expect(loads).toEqual([...loads].sort((a, b) => b - a))
      expect(order).toHaveLength(demand.reduce((sum, planes) => sum + planes.length, 0))
      expect(new Set(order.map(({ expert, plane }) => `${expert}.${plane}`)).size).toBe(order.length)
    }),
  )
})
