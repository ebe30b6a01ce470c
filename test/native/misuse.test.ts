import { V, head, layers } from './decoder_reference'
import { addon, codeOf, detach, randomNumbers, tinyMoe } from './helpers'
import type { Decoder, KvCache, MoeLayer, MomentumState, NativeMoe } from '../../binding'

/* eslint-disable @typescript-eslint/no-explicit-any */
const TYPE = 'ERR_SMOE_INVALID_TYPE'
const RANGE = 'ERR_SMOE_INVALID_ARGUMENT'
const SHAPE = 'ERR_SMOE_SHAPE_MISMATCH'
const DETACHED = 'ERR_SMOE_DETACHED_BUFFER'

const wrongTypes: unknown[] = [
  undefined,
  null,
  true,
  7,
  'text',
  Symbol('s'),
  10n,
  {},
  [],
  () => 0,
  new Map(),
  new DataView(new ArrayBuffer(8)),
]
const moe = tinyMoe()
const T = 3
const N = T * moe.hidden
const x = randomNumbers(N, 1)
const gone = () => detach(new Float32Array(N))
const cancelled = () => {
  const token = new addon.CancelToken()
  token.cancel()
  return token
}

/** Calls with each wrong value in each place; every call must fail with a code of ours. */
async function refuses(name: string, call: (...args: any[]) => unknown, good: unknown[]) {
  const failures: string[] = []
  for (let place = 0; place < good.length; place++) {
    for (const value of [...wrongTypes, NaN, Infinity, -1, 0.5, 2 ** 53, new addon.CancelToken()]) {
      if (Object.is(value, good[place])) continue
      const args = good.slice()
      args[place] = value
      const code = await codeOf(() => call(...args))
      if (!code.startsWith('ERR_SMOE_')) {
        failures.push(`${name} argument ${place} = ${String(value?.constructor?.name ?? value)}: ${code}`)
      }
    }
  }
  return failures
}

describe('misuse is refused with a code', () => {
  let layer: MoeLayer
  let state: MomentumState
  let decoder: Decoder
  let cache: KvCache
  beforeAll(async () => {
    layer = await addon.MoeLayer.create(moe.desc, 'exact')
    state = new addon.MomentumState({ type: 'heavy_ball' }, T, moe.hidden)
    decoder = await addon.Decoder.create(head, 'exact')
    for (const description of layers) await decoder.addLayer(description)
    decoder.finish()
    cache = new addon.KvCache(decoder, 32)
  })

  test('wrong values in every place of every function', async () => {
    const any = addon as any
    const router = new addon.Router(moe.desc.router, moe.desc.routerWeight)
    const ids = Int32Array.of(1, 2)
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 }
    const logits = new Float32Array(10)
    const failures = [
      // wrong values are found before `out` matters, so its place is checked by itself below
      await refuses('forward', (h, d, t) => layer.forward(h, d, t, undefined), [x, 'f32', T]),
      await refuses('forwardSync', (...a) => (layer as any).forwardSync(...a), [x, 'f32', T, x.slice()]),
      await refuses('routeSync', any.routeSync, [moe.desc.router, logits, 2]),
      await refuses('route', any.route, [moe.desc.router, logits, 2]),
      await refuses('Router.route', (...a) => (router as any).route(...a), [x, 'f32', T]),
      await refuses('toF32', any.toF32, [new Uint16Array(4), 'f16']),
      await refuses('fromF32', any.fromF32, [new Float32Array(4), 'f16']),
      await refuses('setIsa', any.setIsa, ['sse']),
      await refuses('step', (i, s) => decoder.step(i, cache, s), [ids, sampling]),
      await refuses('nll', (i, t) => decoder.nll(i, t), [ids, ids]),
      await refuses('trace', (i) => decoder.trace(i), [ids]),
      await refuses('state.read', (n) => state.read(n), ['m']),
      await refuses('create', (d, p) => addon.MoeLayer.create(d, p), [moe.desc, 'exact']),
      await refuses('Decoder.create', (d, p) => addon.Decoder.create(d, p), [head, 'exact']),
      await refuses('decoder.forward', (i, k) => decoder.forward(i, undefined, k), [ids, 'all']),
      await refuses('KvCache', (d) => new addon.KvCache(d, 4), [decoder]),
    ].flat()
    expect(failures).toEqual([])
  })

  test('every field of every description', async () => {
    const failures: string[] = []
    const walk = async (value: any, path: string[], create: (broken: any) => unknown, root: any) => {
      if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return
      for (const key of Object.keys(value)) {
        for (const wrong of [7.5, 'text', {}, [], -1, new Float32Array(3), Symbol('s')]) {
          const broken = structuredCloneBut(root, [...path, key], wrong)
          const code = await codeOf(() => create(broken))
          if (!code.startsWith('ERR_SMOE_'))
            failures.push(`${[...path, key].join('.')} = ${text(wrong)}: ${code}`)
        }
        if (key !== 'experts') await walk(value[key], [...path, key], create, root)
      }
    }
    // legal by themselves: any number for a scale or an epsilon, any frequencies
    const tolerated = /\.(eps|scale|qkNormEps|normP) = (7\.5|-1)|\.invFreq = /
    await walk(moe.desc, [], (broken) => addon.MoeLayer.create(broken, 'exact'), moe.desc)
    await walk(head, [], (broken) => addon.Decoder.create(broken, 'exact'), head)
    const open = await addon.Decoder.create(head, 'exact')
    for (const description of layers) {
      await walk(description, [], (broken) => open.addLayer(broken), description)
    }
    expect(
      failures.filter(
        (failure) => !tolerated.test(failure) && !harmless.some((ok) => failure.startsWith(ok)),
      ),
    ).toEqual([])
  }, 120_000)

  test('lengths, detached buffers, wrong objects', async () => {
    const sync = (...args: any[]) => codeOf(() => (layer as any).forwardSync(...args))
    const later = (...args: any[]) => codeOf(() => (layer as any).forward(...args))
    for (const call of [sync, later]) {
      const out = new Float32Array(N)
      expect(await call(x.subarray(1), 'f32', T, out)).toBe(SHAPE)
      expect(await call(x, 'f32', T + 1, out)).toBe(SHAPE)
      expect(await call(x, 'f32', T, out.subarray(1))).toBe(SHAPE)
      expect(await call(x, 'f32', 2 ** 40, out)).toBe(RANGE)
      expect(await call(x, 'bf16', T, out)).toBe(TYPE)
      expect(await call(new Float64Array(N), 'f32', T, out)).toBe(TYPE)
      expect(await call(x, 'i32', T, out)).toBe(RANGE)
      expect(await call(gone(), 'f32', T, out)).toBe(DETACHED)
      expect(await call(x, 'f32', T, gone())).toBe(DETACHED)
      const options = (value: object) => call(x, 'f32', T, out, value)
      expect(await options({ residual: gone() })).toBe(DETACHED)
      expect(await options({ residual: x.subarray(1) })).toBe(SHAPE)
      expect(await options({ residual: x.slice().fill(NaN, 30, 31) })).toBe('ERR_SMOE_NON_FINITE_INPUT')
      expect(await options({ state: {} })).toBe(TYPE)
      expect(await options({ state: layer })).toBe(TYPE)
      expect(await options({ state: new addon.MomentumState({ type: 'none' }, T + 1, moe.hidden) })).toBe(
        SHAPE,
      )
      expect(await options({ cancel: state })).toBe(TYPE)
      expect(await options({ cancel: cancelled() })).toBe('ERR_SMOE_CANCELLED')
      const routing = { ids: new Int32Array(T), weights: new Float32Array(T), slots: 1 }
      for (const id of [5, -2, 2 ** 31 - 1, -(2 ** 31)]) {
        expect(await options({ routing: { ...routing, ids: Int32Array.of(0, 1, id) } })).toBe(RANGE)
      }
      expect(await options({ routing: { ...routing, weights: Float32Array.of(0, 0, Infinity) } })).toBe(
        'ERR_SMOE_NON_FINITE_INPUT',
      )
      expect(await options({ routing: { ...routing, slots: 2 } })).toBe(SHAPE)
      expect(await options({ routing: { ...routing, slots: 1000 } })).toBe(RANGE)
      expect(await options({ routing: { ...routing, ids: detach(new Int32Array(T)) } })).toBe(DETACHED)
      expect(await options({ routing: { ...routing, ids: new Uint32Array(T) } })).toBe(TYPE)
      expect(await call(x, 'f32', T, out)).toBe('no error')
    }
    expect(state.depth).toBe(0)
  })

  test('a getter that detaches or disposes changes nothing that was checked before', async () => {
    for (const method of ['forward', 'forwardSync'] as const) {
      const victim = x.slice()
      const trap = {
        get residual() {
          if (victim.length > 0) detach(victim)
          return undefined
        },
      }
      expect(await codeOf(() => layer[method](victim, 'f32', T, new Float32Array(N), trap))).toBe(DETACHED)
      const short = await addon.MoeLayer.create(moe.desc, 'exact')
      const disposing = {
        get cancel() {
          short.dispose()
          return undefined
        },
      }
      const out = new Float32Array(N)
      expect(await codeOf(() => short[method](x, 'f32', T, out, disposing))).toBe('no error')
      const throwing = {
        get state(): never {
          throw Object.assign(new Error('mine'), { code: 'MINE' })
        },
      }
      expect(await codeOf(() => layer[method](x, 'f32', T, out, throwing))).toBe('MINE')
    }
  })

  test('methods and getters on objects of another class', async () => {
    const objects: any[] = [layer, state, decoder, cache, new addon.CancelToken(), {}, Object.create(layer)]
    const any = addon as any
    for (const name of Object.keys(any).filter((key) => /^[A-Z]/.test(key))) {
      const prototype = any[name].prototype
      for (const key of Object.getOwnPropertyNames(prototype)) {
        if (key === 'constructor') continue
        const descriptor: any = Object.getOwnPropertyDescriptor(prototype, key)
        for (const object of objects.filter((other) => !(other instanceof any[name]))) {
          await expect(
            (async () => (descriptor.value ?? descriptor.get).call(object))(),
          ).rejects.toBeDefined()
        }
      }
      expect(() => any[name]()).toThrow()
    }
    expect(() => new any.MoeLayer()).toThrow(/create/)
    expect(() => new any.Decoder(layer)).toThrow(/create/)
  })

  test('after dispose', async () => {
    const short = await addon.MoeLayer.create(moe.desc, 'exact')
    const momentum = new addon.MomentumState({ type: 'complex' }, T, moe.hidden)
    const router = new addon.Router(moe.desc.router, moe.desc.routerWeight)
    const kv = new addon.KvCache(decoder, 4)
    for (const object of [short, momentum, router, kv]) {
      object.dispose()
      object.dispose()
    }
    const ids = Int32Array.of(1)
    const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0 }
    for (const call of [
      () => short.hidden,
      () => short.slots,
      () => short.expertCount,
      () => short.counts(),
      () => short.resetStats(),
      () => short.forward(x, 'f32', T, undefined),
      () => short.forwardSync(x, 'f32', T, new Float32Array(N)),
      () => momentum.reset(),
      () => momentum.depth,
      () => momentum.read('m'),
      () => layer.forward(x, 'f32', T, undefined, { state: momentum }),
      () => router.route(x, 'f32', T),
      () => kv.length,
      () => kv.capacity,
      () => kv.truncate(0),
      () => decoder.forward(ids, kv, 'all'),
      () => decoder.step(ids, kv, sampling),
    ]) {
      expect(await codeOf(call)).toBe('ERR_SMOE_DISPOSED')
    }
  })

  test('cancelled before and in the middle', async () => {
    const ids = Int32Array.from({ length: 30 }, (_, i) => i % V)
    const big = randomNumbers(2000 * moe.hidden, 3)
    const calls: [string, (token: InstanceType<typeof addon.CancelToken>) => Promise<unknown>][] = [
      ['create', (cancel) => addon.MoeLayer.create(moe.desc, 'exact', cancel)],
      ['forward', (cancel) => layer.forward(big, 'f32', 2000, undefined, { cancel })],
      ['route', (cancel) => addon.route(moe.desc.router, new Float32Array(5 * 2000), 2000, cancel)],
      ['decoder', (cancel) => decoder.forward(ids, undefined, 'all', cancel)],
      ['nll', (cancel) => decoder.nll(ids, ids, cancel)],
      ['trace', (cancel) => decoder.trace(ids, cancel)],
      ['cached', (cancel) => decoder.forward(ids, cache, 'last', cancel)],
    ]
    for (const [name, call] of calls) {
      const before = addon.runtimeInfo().pendingCalls
      expect([name, await codeOf(() => call(cancelled()))]).toEqual([name, 'ERR_SMOE_CANCELLED'])
      expect(addon.runtimeInfo().pendingCalls).toBeLessThanOrEqual(before)
      const token = new addon.CancelToken()
      const promise = codeOf(() => call(token))
      token.cancel()
      token.cancel()
      // Whoever is first: a call that was done already resolves.
      expect(['ERR_SMOE_CANCELLED', 'no error']).toContain(await promise)
      cache.truncate(0)
      expect([name, await codeOf(() => call(new addon.CancelToken()))]).toEqual([name, 'no error'])
      cache.truncate(0)
    }
  })

  test('descriptions that contradict themselves', async () => {
    const create = (change: Partial<NativeMoe>) =>
      codeOf(() => addon.MoeLayer.create({ ...moe.desc, ...change }, 'exact'))
    expect(await create({ experts: moe.desc.experts.slice(1) })).toBe(SHAPE)
    expect(await create({ experts: [] })).toBe(SHAPE)
    expect(await create({ hidden: 25 })).toBe(SHAPE)
    expect(await create({ hidden: 0 })).toBe(RANGE)
    const plain = moe.desc.experts.map(({ up, down }) => ({ up, down }))
    expect(await create({ experts: [plain[0]!, ...moe.desc.experts.slice(1)] })).toBe(SHAPE)
    expect(await create({ experts: plain })).toBe('no error')
    expect(await create({ sharedGate: moe.desc.experts[0]!.up })).toBe(SHAPE)
    expect(await create({ router: { ...moe.desc.router, k: 6 } })).toBe('ERR_SMOE_INVALID_SPEC')
    expect(await codeOf(() => new addon.MomentumState({ type: 'heavy_ball', mu: 1.5 }, 1, 1))).toBe(
      'ERR_SMOE_INVALID_SPEC',
    )
    expect(await codeOf(() => new addon.MomentumState({ type: 'heavy_ball' }, 2 ** 31 - 1, 2 ** 24))).toMatch(
      /OUT_OF_MEMORY|INVALID_ARGUMENT/,
    )
  })
})

/** Fields where one of the tried values is legal. */
const harmless = [
  'router.k = ',
  'router.groups',
  'router.normP = ',
  'routerWeight.file = ',
  'embedding.file = ',
]

/** A value in a failure message. */
const text = (value: any) => `${typeof value === 'object' ? JSON.stringify(value) : String(value)}`

/** A copy of `value` along `path`, with `wrong` at its end. */
function structuredCloneBut(value: any, path: string[], wrong: unknown): any {
  const [key, ...rest] = path as [string, ...string[]]
  const copy = Array.isArray(value) ? value.slice() : { ...value }
  copy[key] = rest.length === 0 ? wrong : structuredCloneBut(value[key], rest, wrong)
  return copy
}
