import { type Device, MoeLayer, MoeModel, Tensor, devices } from '../../lib'
import { emulated, fewer } from '../helpers/device'
import { expectFailure } from '../helpers/errors'
import { plainShape, randomLayer } from '../helpers/layers'
import { random, randomArray } from '../helpers/numbers'
import { hf } from '../helpers/paths'

const create = (device?: unknown) => MoeLayer.create({ ...randomLayer(plainShape), device: device as Device })
const hidden = Tensor.from(randomArray(3 * 24, random(7)), [3, 24])

test.each(['cuda', 'cuda:0', 'auto', undefined])(
  '%s: weights go to the GPU and leave the host',
  async (device) => {
    using layer = await create(device)
    expect(layer.device).toBe('cuda:0')
    const { native, device: onGpu } = layer.memoryUsage()
    expect(onGpu).toBeGreaterThan(2 * 4 * 3 * 20 * 24)
    expect(native).toBeLessThan(1000)
    layer.dispose()
    expect(layer.memoryUsage()).toEqual({ native: 0, device: 0 })
  },
)

test('both backends in one process agree', async () => {
  using here = await create('cpu')
  using there = await create('cuda')
  expect(here.device).toBe('cpu')
  expect(here.memoryUsage().device).toBe(0)
  const [a, b] = [(await here.forward(hidden)).data(), (await there.forward(hidden)).data()]
  // Both round activations to bf16, 2^-9, at the same places; where a sum rounds to the other side, later ones differ.
  a.forEach((value, i) => expect(Math.abs(value - b[i]!)).toBeLessThan(2e-2))
})

test.each([
  ['gpu', 'ERR_SMOE_INVALID_ARGUMENT', /device must be 'cpu', 'auto', 'cuda' or 'cuda:N', got 'gpu'/],
  ['cuda:x', 'ERR_SMOE_INVALID_ARGUMENT', /got 'cuda:x'/],
  ['cuda:-1', 'ERR_SMOE_INVALID_ARGUMENT', /got 'cuda:-1'/],
  ['', 'ERR_SMOE_INVALID_ARGUMENT', /got ''/],
  [0, 'ERR_SMOE_INVALID_TYPE', /device must be .*, got 0/],
  ['cuda:99', 'ERR_SMOE_DEVICE_UNAVAILABLE', /CUDA device 99 cannot be used: .*exist.*; .*use device "cpu"/],
])('device %p is refused', async (device, code, message) => {
  await expectFailure(() => create(device), code, message)
  await expectFailure(() => MoeModel.load(hf('olmoe'), { device: device as Device }), code, message)
})

test('SMOE_DEVICE is checked as the option is', async () => {
  const before = process.env.SMOE_DEVICE
  process.env.SMOE_DEVICE = 'fast'
  await expectFailure(() => create(), 'ERR_SMOE_INVALID_ARGUMENT', /SMOE_DEVICE must be 'cpu'.*got 'fast'/)
  using layer = await create('cpu')
  expect(layer.device).toBe('cpu')
  process.env.SMOE_DEVICE = before
})

test('tensors stay in host memory', async () => {
  expect(hidden.to('cpu')).toBe(hidden)
  await expectFailure(() => hidden.to('cuda'), 'ERR_SMOE_DEVICE_UNAVAILABLE', /tensors stay in host memory/)
})

test('devices() names the GPU', async () => {
  const [cpu, gpu] = await devices()
  expect(cpu).toMatchObject({ device: 'cpu', available: true })
  expect(gpu).toMatchObject({
    device: 'cuda:0',
    available: true,
    why: emulated ? /emulation/ : 'usable',
  })
  expect(gpu!.memoryFree).toBeLessThanOrEqual(gpu!.memory!)
})

test('a model shows where its weights and caches are', async () => {
  const model = await MoeModel.load(hf('olmoe'))
  expect(model.device).toBe('cuda:0')
  const loaded = model.memoryUsage()
  expect(loaded.weights).toBe(loaded.native + loaded.device)
  expect(loaded.native).toBeLessThan(loaded.weights / 20)
  expect(loaded.scratch).toBe(0)
  for await (const _ of model.generate([1, 2, 3], { maxNewTokens: fewer(4, 1), ignoreEos: true })) {
    expect(model.memoryUsage().kvCaches).toBeGreaterThan(0)
  }
  const rested = model.memoryUsage()
  expect(rested.kvCaches).toBe(0)
  expect(rested.scratch).toBeGreaterThan(0)
  expect(rested.device).toBe(loaded.device + rested.scratch)
  const call = model.forward([1, 2])
  model.dispose() // the call goes on
  expect((await call).shape).toEqual([2, model.vocab])
  expect(model.memoryUsage()).toEqual({ weights: 0, kvCaches: 0, scratch: 0, native: 0, device: 0 })
})

test('what the backend does not do is refused by name', async () => {
  const widths = Array.from({ length: 40 }, () => 8)
  const spec = { ...plainShape.spec, select: { kind: 'topK' as const, k: 33 } }
  await expectFailure(
    () => MoeLayer.create({ ...randomLayer({ ...plainShape, experts: 40, widths, spec }) }),
    'ERR_SMOE_INVALID_SPEC',
    /at most 32 of 1024 experts.*use device "cpu"/,
  )
})

test('bit-nested experts keep their planes on the GPU, each of which is read when asked for', async () => {
  const { experts, ...rest } = randomLayer({ ...plainShape, hidden: 256, widths: [256, 256, 256, 256] })
  const all = (format: 'wn' | 'bf16') => ({ ...rest, experts: experts.map((one) => ({ ...one, format })) })
  using nested = await MoeLayer.create(all('wn'))
  using plain = await MoeLayer.create(all('bf16'))
  // 2 + 1 + 1 bits, and three scales of 16 bits and a zero point for 128 weights: 4.5 of 16.
  expect(nested.memoryUsage().device).toBeLessThan(plain.memoryUsage().device / 2.5)
  const rows = Tensor.from(randomArray(2 * 256, random(8)), [2, 256])
  const at = async (expertBits?: number) => (await nested.forward(rows, { expertBits })).data()
  const [low, high] = [await at(2), await at(4)]
  expect(low).not.toEqual(high)
  expect(await at()).toEqual(high)
})
