import { MoeLayer, MomentumState, type MomentumSpec, Tensor } from '../../lib'
import { fewer } from '../helpers/device'
import { expectFailure } from '../helpers/errors'
import { layerOracle, plainShape, randomLayer } from '../helpers/layers'
import { random, randomArray, relativeError } from '../helpers/numbers'

const [tokens, hidden, depth] = [5, 24, 4]
const descriptions = Array.from({ length: depth }, (_, i) => randomLayer({ ...plainShape, seed: 100 + i }))
let layers: MoeLayer[]

beforeAll(async () => {
  layers = await Promise.all(
    descriptions.map((d, layerIndex) => MoeLayer.create({ ...d, layerIndex, precision: 'exact' })),
  )
})
afterAll(() => layers.forEach((layer) => layer.dispose()))

const start = randomArray(tokens * hidden, random(3))
const perLayer = (value: number | readonly number[], l: number) =>
  typeof value === 'number' ? value : value[l]!

/** specs/momentum.md, sections 1 and 3, in double: the stream and m after each layer. */
function oracle(spec: MomentumSpec): { x: number[]; m: number[] }[] {
  const { mu = 0.7, gamma = 1, sign = -1 } = spec
  let x = Array.from(start)
  let [m, im, p, v] = [0, 0, 0, 0].map(() => x.map(() => 0)) as [number[], number[], number[], number[]]
  return descriptions.map((layer, l) => {
    const [a, g] = [perLayer(mu, l), perLayer(gamma, l)]
    const robust = spec.type === 'robust'
    const alpha = (g * a ** 3) / (g - 1)
    const ahead = robust ? alpha : spec.type === 'nesterov' ? g * a : 0
    const u = x.map((value, i) => value + (l === 0 ? 0 : ahead * m[i]!))
    const y = Array.from(
      { length: tokens },
      (_, t) => layerOracle(layer, u.slice(t * hidden, (t + 1) * hidden)).y,
    ).flat()
    if (spec.type === 'none') x = x.map((value, i) => value + y[i]!)
    if (spec.type === 'heavy_ball') {
      m = m.map((value, i) => a * value + g * y[i]!)
      x = x.map((value, i) => value + sign * m[i]!)
    }
    if (spec.type === 'complex') {
      const { beta1 = 0.7, beta2 = 0.1 } = spec
      const re = m.map((r, i) => beta1 * r - beta2 * im[i]! + g * y[i]!)
      im = m.map((r, i) => beta2 * r + beta1 * im[i]!)
      m = re
      x = x.map((value, i) => value + sign * m[i]!)
    }
    if (robust || spec.type === 'nesterov') {
      const [decay, step] = robust ? [alpha, (g * (1 - a) ** 2 * (1 + a)) / (spec.L ?? 1)] : [a, g]
      m = m.map((value, i) => decay * value - y[i]!)
      x = x.map((value, i) => value + step * m[i]!)
    }
    if (spec.type === 'adam') {
      const { beta1 = 0.9, beta2 = 0.999, gamma1 = 1, eps = 1e-8, kappa = 1, adamLayers = [0] } = spec
      m = m.map((value, i) => a * value + g * y[i]!)
      if (adamLayers.includes(l)) {
        p = p.map((value, i) => beta1 * value + (1 - beta1) * y[i]!)
        v = v.map((value, i) => beta2 * value + (1 - beta2) * y[i]! ** 2)
        x = x.map((value, i) => (1 - kappa) * value + (sign * gamma1 * p[i]!) / Math.sqrt(v[i]! + eps))
      } else {
        x = x.map((value, i) => value + sign * m[i]!)
      }
    }
    return { x, m }
  })
}

const specs: [string, MomentumSpec][] = [
  ['none', { type: 'none' }],
  ['heavy ball, defaults', { type: 'heavy_ball' }],
  ['heavy ball, sign +1', { type: 'heavy_ball', mu: 0.5, gamma: 0.8, sign: 1 }],
  ['heavy ball per layer', { type: 'heavy_ball', mu: [0.1, -0.2, 0.3, 0.4], gamma: [1, 2, 0.5, 1] }],
  ['complex', { type: 'complex', beta1: 0.6, beta2: 0.3 }],
  ['robust', { type: 'robust', mu: 0.2, gamma: 1.25 }],
  ['nesterov', { type: 'nesterov', mu: 0.4, gamma: 0.5 }],
  ['adam', { type: 'adam', mu: 0.7 }],
  ['adam in two layers, kappa 0.5', { type: 'adam', kappa: 0.5, adamLayers: [0, 2], eps: 1e-4 }],
]

test.each(specs)('%s: four layers up the depth', async (_, spec) => {
  const expected = oracle(spec)
  using state = new MomentumState(spec, [tokens, hidden])
  let sync = Tensor.from(start.slice(), [tokens, hidden])
  for (const [l, layer] of layers.entries()) {
    sync = layer.forwardSync(sync, { state })
    expect(relativeError(sync.data(), expected[l]!.x)).toBeLessThan(1e-4)
    if (spec.type !== 'none') expect(relativeError(state.read('m').data(), expected[l]!.m)).toBeLessThan(1e-4)
    expect(state.depth).toBe(l + 1)
  }
  state.reset()
  expect(state.depth).toBe(0)
  let stream = Tensor.from(start, [tokens, hidden])
  for (const layer of layers) stream = await layer.forward(stream, { state })
  expect(stream.data()).toEqual(sync.data())
})

test('with residual, the stream is not what the experts see', () => {
  const spec = { type: 'heavy_ball', mu: 0.7, sign: 1 } as const
  using state = new MomentumState(spec, [tokens, hidden])
  const normed = Tensor.from(start, [tokens, hidden])
  const residual = Tensor.from(randomArray(tokens * hidden, random(9)), [tokens, hidden])
  const y = layers[0]!.forwardSync(normed).data()
  const found = layers[0]!.forwardSync(normed, { state, residual }).data()
  expect(found).toEqual(y.map((value, i) => residual.data()[i]! + value))
})

test('m is zero before the first layer, however dirty the memory', () => {
  using state = new MomentumState({ type: 'adam' }, [tokens, hidden])
  layers[0]!.forwardSync(Tensor.from(start, [tokens, hidden]), { state })
  state.reset()
  for (const name of ['m', 'p', 'v'])
    expect(state.read(name).data()).toEqual(new Float32Array(tokens * hidden))
})

describe('depth, not time', () => {
  const input = () => Tensor.from(start, [tokens, hidden])
  const reused = (call: () => unknown, message: RegExp) =>
    expectFailure(call, 'ERR_SMOE_STATE_REUSED', message)

  test('the same layer twice, or a lower one, without reset', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    layers[1]!.forwardSync(input(), { state })
    await reused(
      () => layers[1]!.forwardSync(input(), { state }),
      /same layer twice.*up the depth.*not along time.*reset/s,
    )
    await reused(() => layers[0]!.forward(input(), { state }), /layer 0 after layer 1/)
    expect(state.depth).toBe(1)
    layers[3]!.forwardSync(input(), { state })
    state.reset()
    layers[0]!.forwardSync(input(), { state })
  })

  test('two calls at once', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    const first = layers[0]!.forward(input(), { state })
    await reused(() => layers[1]!.forward(input(), { state }), /has not settled/)
    await first
    await layers[1]!.forward(input(), { state })
  })

  test('another shape', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens + 1, hidden])
    const call = () => layers[0]!.forward(input(), { state })
    await expectFailure(
      call,
      'ERR_SMOE_SHAPE_MISMATCH',
      /state must have shape \[5, 24\] as hidden, got \[6, 24\]/,
    )
  })

  test('a refused call leaves the state as it was', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    const bad = Tensor.from(Float32Array.from(start).fill(NaN, 7, 8), [tokens, hidden])
    await expectFailure(() => layers[0]!.forward(bad, { state }), 'ERR_SMOE_NON_FINITE_INPUT', /row 0/)
    const found = await layers[0]!.forward(input(), { state })
    using fresh = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    expect(found.data()).toEqual(layers[0]!.forwardSync(input(), { state: fresh }).data())
  })

  test('an aborted call leaves a state that wants reset()', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    const reason = new Error('enough')
    const controller = new AbortController()
    const rows = Tensor.zeros([fewer(20_000, 100), hidden])
    const ahead = Array.from({ length: 4 }, () => layers[1]!.forward(rows)) // keeps the op thread busy until the abort
    const call = layers[0]!.forward(input(), { state, signal: controller.signal })
    controller.abort(reason)
    await expect(call).rejects.toBe(reason)
    await Promise.all(ahead)
    await reused(() => layers[0]!.forward(input(), { state }), /did not finish/)
    state.reset()
    await layers[0]!.forward(input(), { state })
  })

  test('a signal that had fired before changes nothing', async () => {
    using state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    const reason = { stop: true }
    const call = layers[0]!.forward(input(), { state, signal: AbortSignal.abort(reason) })
    await expect(call).rejects.toBe(reason)
    await layers[0]!.forward(input(), { state })
  })

  test('after dispose', async () => {
    const state = new MomentumState({ type: 'heavy_ball' }, [tokens, hidden])
    expect(state.memoryUsage().native).toBe(tokens * hidden * 4)
    state.dispose()
    state.dispose()
    expect(state.memoryUsage().native).toBe(0)
    await expectFailure(
      () => layers[0]!.forward(input(), { state }),
      'ERR_SMOE_DISPOSED',
      /state was used after/,
    )
    await expectFailure(() => state.reset(), 'ERR_SMOE_DISPOSED', /state/)
  })
})

const refusals: [unknown, RegExp][] = [
  [{ type: 'heavy_ball', sign: 2 }, /sign.* 1 or -1, got 2/],
  [{ type: 'heavy_ball', mu: 1 }, /mu/],
  [{ type: 'robust', mu: 0.2, gamma: 1 }, /gamma.*1/],
  [{ type: 'robust', L: 0 }, /L/],
  [{ type: 'adam', beta2: 1 }, /beta2/],
  [{ type: 'adam', eps: 0 }, /eps/],
  [{ type: 'complex', beta1: 0.9, beta2: 0.9 }, /beta1/],
]
test.each(refusals)('refuses %j', async (spec, message) => {
  await expectFailure(() => new MomentumState(spec as MomentumSpec, [1, 1]), 'ERR_SMOE_INVALID_SPEC', message)
})

test('read() knows the state tensors of its type', async () => {
  using state = new MomentumState({ type: 'heavy_ball' }, [1, 2])
  await expectFailure(() => state.read('p'), 'ERR_SMOE_INVALID_ARGUMENT', /name must be one of 'm', got 'p'/)
  await expectFailure(
    () => new MomentumState({ type: 'none' }, [1] as never),
    'ERR_SMOE_INVALID_TYPE',
    /shape/,
  )
  await expectFailure(
    () => new MomentumState({ type: 'none' }, [0, 1]),
    'ERR_SMOE_INVALID_ARGUMENT',
    /shape\[0\]/,
  )
})
