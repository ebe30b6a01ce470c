import { addon, codeOf, expectClose, randomNumbers, rows, runMoe, tinyMoe } from './helpers'

const moe = tinyMoe()
const T = 3
const H = moe.hidden
const x = randomNumbers(T * H, 41, 0.5)

const update = (input: ArrayLike<number>) =>
  rows(Float32Array.from(input), H).flatMap((row) => runMoe(moe, row))

describe('MomentumState', () => {
  test('heavy ball over three layers', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'heavy_ball', mu: 0.6, gamma: 0.9, sign: -1 }, T, H)
    expect(state.bytes).toBeGreaterThanOrEqual(T * H * 4)
    expect(state.read('m')).toEqual(new Float32Array(T * H))
    let stream: Float32Array = x
    let expected = Array.from(x)
    let m = new Array<number>(T * H).fill(0)
    for (let depth = 0; depth < 3; depth++) {
      expect(state.depth).toBe(depth)
      stream = (await layer.forward(stream, 'f32', T, undefined, { state })) as Float32Array
      const y = update(expected)
      m = m.map((value, i) => 0.6 * value + 0.9 * y[i]!)
      expected = expected.map((value, i) => value - m[i]!)
      // errors of one layer go through the next: a factor of about the layer's gain each
      expectClose(stream, expected, 1e-3)
      expectClose(state.read('m'), m, 1e-3)
    }
    state.reset()
    expect(state.depth).toBe(0)
    expect(state.read('m')).toEqual(new Float32Array(T * H))
  })

  test('Nesterov looks ahead: router and experts see h + gamma*mu*m, the stream does not', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'nesterov', mu: 0.5, gamma: 0.8, sign: -1 }, T, H)
    const out = new Float32Array(T * H)
    const first = update(x)
    layer.forwardSync(x, 'f32', T, out, { state })
    let m = first.map((value) => -value)
    expectClose(
      out,
      Array.from(x, (value, i) => value + 0.8 * m[i]!),
      1e-4,
    )
    const second = new Float32Array(T * H)
    layer.forwardSync(out, 'f32', T, second, { state })
    const y = update(Array.from(out, (value, i) => value + 0.8 * 0.5 * m[i]!))
    m = m.map((value, i) => 0.5 * value - y[i]!)
    expectClose(
      second,
      Array.from(out, (value, i) => value + 0.8 * m[i]!),
      1e-3,
    )
  })

  test('complex and adam have their own tensors', () => {
    const complex = new addon.MomentumState({ type: 'complex' }, T, H)
    expect(complex.read('m_im')).toHaveLength(T * H)
    expect(() => complex.read('p')).toThrow(/tensor 'p'/)
    const adam = new addon.MomentumState({ type: 'adam', adamLayers: [1] }, T, H)
    for (const name of ['m', 'p', 'v']) expect(adam.read(name)).toHaveLength(T * H)
    expect(() => adam.read('m_im')).toThrow(/tensor 'm_im'/)
    expect(new addon.MomentumState({ type: 'none' }, T, H).bytes).toBe(0)
  })

  test('adam above layer 0 starts from zero moments, also on the second pass', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'adam', adamLayers: [1] }, T, H)
    const pass = async () => {
      state.reset()
      const first = (await layer.forward(x, 'f32', T, undefined, { state })) as Float32Array
      expect(state.read('p')).toEqual(new Float32Array(T * H))
      return layer.forward(first, 'f32', T, undefined, { state })
    }
    expect(await pass()).toEqual(await pass())
    expect(state.read('v').some((value) => value > 0)).toBe(true)
  })

  test('one call at a time', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'heavy_ball' }, T, H)
    const running = layer.forward(x, 'f32', T, undefined, { state })
    const again = await codeOf(() => layer.forward(x, 'f32', T, undefined, { state }))
    const resetting = await codeOf(() => state.reset())
    await running
    expect(again).toBe('ERR_SMOE_INVALID_ARGUMENT')
    expect(['ERR_SMOE_INVALID_ARGUMENT', 'no error']).toContain(resetting)
    await layer.forward(x, 'f32', T, undefined, { state })
    expect(state.depth).toBe(2)
  })

  test('a call refused for its input leaves the state as it was', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'heavy_ball' }, T, H)
    const bad = x.slice().fill(Infinity, 5, 6)
    expect(await codeOf(() => layer.forward(bad, 'f32', T, undefined, { state }))).toBe(
      'ERR_SMOE_NON_FINITE_INPUT',
    )
    expect(state.depth).toBe(0)
    await layer.forward(x, 'f32', T, undefined, { state })
    expect(state.depth).toBe(1)
  })

  test('dispose during a call is safe', async () => {
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    const state = new addon.MomentumState({ type: 'heavy_ball' }, T, H)
    const running = layer.forward(x, 'f32', T, undefined, { state })
    state.dispose()
    await running
    expect(await codeOf(() => state.depth)).toBe('ERR_SMOE_DISPOSED')
    expect(state.bytes).toBe(0)
  })
})
