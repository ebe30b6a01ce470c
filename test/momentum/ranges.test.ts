import { MomentumState } from '../../lib'
import type { NativeMomentumSpec } from '../../binding'
import { checkMomentumRanges } from '../../lib/momentum/ranges'
import { failure } from '../helpers/errors'

const check = (spec: NativeMomentumSpec) => checkMomentumRanges(spec, 2, 'momentum_smoe')

// The addon has the same ranges for states: what one refuses the other does.
const cases: [NativeMomentumSpec, RegExp | undefined][] = [
  [{ type: 'none', mu: 5 }, undefined],
  [{ type: 'heavy_ball' }, undefined],
  [{ type: 'heavy_ball', mu: -0.99, gamma: -3, sign: 1 }, undefined],
  [{ type: 'heavy_ball', mu: 1.5 }, /mu must be between -1 and 1/],
  [{ type: 'heavy_ball', mu: -1 }, /mu/],
  [{ type: 'heavy_ball', mu: [0.5, 1] }, /mu/],
  [{ type: 'heavy_ball', gamma: 1e39 }, /gamma/],
  [{ type: 'heavy_ball', gamma: [1, -1e39] }, /gamma/],
  [{ type: 'heavy_ball', sign: 0.5 }, /sign must be 1 or -1, got 0.5/],
  [{ type: 'nesterov' }, undefined],
  [{ type: 'nesterov', mu: 1 }, /mu/],
  [{ type: 'complex', mu: 5 }, undefined],
  [{ type: 'complex', beta1: 0.9 }, undefined],
  [{ type: 'complex', beta1: 0.8, beta2: 0.6 }, /beta1 \+ i beta2/],
  [{ type: 'robust' }, undefined],
  [{ type: 'robust', gamma: 1 }, /gamma must be above 1/],
  [{ type: 'robust', L: 0 }, /L must be above 0/],
  [{ type: 'robust', L: 1e-40 }, /L is too small/],
  [{ type: 'robust', mu: 0.9, gamma: 1.25 }, /unstable/],
  [{ type: 'robust', mu: [0.2, 0.9], gamma: [1.25, 4] }, undefined],
  [{ type: 'adam', adamLayers: [0, 1] }, undefined],
  [{ type: 'adam', beta1: 1 }, /beta1/],
  [{ type: 'adam', beta2: -0.1 }, /beta2/],
  [{ type: 'adam', eps: 0 }, /eps/],
  [{ type: 'adam', kappa: Infinity }, /kappa/],
]
test.each(cases)('%j', async (spec, message) => {
  const native = async () => {
    new MomentumState(spec, [1, 1]).dispose()
    return Promise.resolve()
  }
  if (message === undefined) {
    check(spec)
    await native()
    return
  }
  const error = await failure(() => check(spec))
  expect(error).toMatchObject({ code: 'ERR_SMOE_INVALID_SPEC', message: expect.stringMatching(message) })
  expect((await failure(native)).code).toBe('ERR_SMOE_INVALID_SPEC')
})

test('layers that the model does not have', () => {
  expect(() => check({ type: 'adam', adamLayers: [2] })).toThrow(
    /adam_layers must be a MoE layer below 2, got 2/,
  )
})
