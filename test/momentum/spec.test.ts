import { parseMomentumSpec } from '../../lib/momentum/spec'
import { expectFailure } from '../helpers/errors'

test('reads both spellings', () => {
  const adam = { type: 'adam', mu: 0.7, beta1: 0.9, beta2: 0.999, kappa: 1, gamma1: 0.8, eps: 1e-8, sign: -1 }
  expect(parseMomentumSpec({ ...adam, adamLayers: [0, 2] })).toEqual({ ...adam, adamLayers: [0, 2] })
  expect(parseMomentumSpec({ ...adam, adam_layers: [0, 2] })).toEqual({ ...adam, adamLayers: [0, 2] })
  expect(parseMomentumSpec({ type: 'heavy_ball', mu: [0.1, 0.2] })).toEqual({
    type: 'heavy_ball',
    mu: [0.1, 0.2],
  })
})

const refusals: [unknown, RegExp][] = [
  [null, /spec must be an object/],
  [{}, /spec.type must be one of 'none', 'heavy_ball'/],
  [{ type: 'sgd' }, /got 'sgd'/],
  [{ type: 'heavy_ball', momentum: 0.7 }, /spec.momentum is not supported/],
  [{ type: 'heavy_ball', mu: NaN }, /spec.mu must be a finite number, got NaN/],
  [{ type: 'heavy_ball', mu: '0.7' }, /spec.mu/],
  [{ type: 'heavy_ball', mu: [] }, /spec.mu must hold one finite number per MoE layer/],
  [{ type: 'heavy_ball', gamma: [1, Infinity] }, /spec.gamma/],
  [{ type: 'adam', adamLayers: [-1] }, /spec.adamLayers must be a list of MoE layers/],
]
test.each(refusals)('refuses %j', async (spec, message) => {
  await expectFailure(() => parseMomentumSpec(spec), 'ERR_SMOE_INVALID_SPEC', message)
})
