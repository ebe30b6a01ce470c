import { execFileSync } from 'node:child_process'
import path from 'node:path'
import {
  type ForwardOptions,
  MoeLayer,
  type MoeLayerCreateOptions,
  MoeModel,
  Router,
  Tensor,
  devices,
  inspect,
  runtimeInfo,
  setThreads,
} from '../../lib'
import { native } from '../../lib/native'
import { errorCodes } from '../../lib/errors'
import { expectFailure } from '../helpers/errors'
import { plainShape, randomLayer } from '../helpers/layers'
import { momentumModel } from '../helpers/paths'

const description = () => randomLayer(plainShape)
let layer: MoeLayer
let model: MoeModel
const hidden = Tensor.zeros([2, 24])

beforeAll(async () => {
  layer = await MoeLayer.create(description())
  model = await MoeModel.load(momentumModel)
})
afterAll(() => {
  layer.dispose()
  model.dispose()
})

test('the addon and lib/ agree on the codes', () => {
  expect(native().errorCodes).toEqual([...errorCodes])
})

const one = Tensor.zeros([1])
const creations: [string, () => Partial<MoeLayerCreateOptions>, string, RegExp][] = [
  ['no router', () => ({ router: undefined }), 'INVALID_SPEC', /spec must be an object/],
  [
    'external logits',
    () => ({ router: { ...plainShape.spec, affinity: { kind: 'external' } } }),
    'INVALID_SPEC',
    /linear/,
  ],
  [
    'router weight that is no tensor',
    () => ({ routerWeight: new Float32Array(4) as never }),
    'INVALID_TYPE',
    /routerWeight must be a Tensor/,
  ],
  [
    'router weight of one dimension',
    () => ({ routerWeight: one }),
    'SHAPE_MISMATCH',
    /routerWeight must have shape \[any, any\], got \[1\]/,
  ],
  [
    'integers for weights',
    () => ({ routerWeight: Tensor.zeros([4, 24], 'i32') }),
    'DTYPE_MISMATCH',
    /routerWeight must be f32, f16 or bf16/,
  ],
  [
    'an expert too few',
    () => ({ experts: description().experts.slice(1) }),
    'SHAPE_MISMATCH',
    /one entry per row of routerWeight \(4\), got 3/,
  ],
  ['experts that are no list', () => ({ experts: {} as never }), 'INVALID_TYPE', /experts must be an array/],
  [
    'an expert that is null',
    () => ({ experts: [null, null, null, null] as never }),
    'INVALID_TYPE',
    /experts\[0\] must be/,
  ],
  [
    'down of another width',
    () => ({ experts: description().experts.map((e) => ({ ...e, down: Tensor.zeros([24, 21]) })) }),
    'SHAPE_MISMATCH',
    /experts\[0\].down must have shape \[24, 20\], got \[24, 21\]/,
  ],
  [
    'a bias of the wrong length',
    () => ({ experts: description().experts.map((e) => ({ ...e, upBias: one })) }),
    'SHAPE_MISMATCH',
    /experts\[0\].upBias/,
  ],
  [
    'a gate bias without gate',
    () => ({ experts: description().experts.map(({ up, down }) => ({ up, down, gateBias: one })) }),
    'INVALID_TYPE',
    /experts\[0\].gate/,
  ],
  [
    'a shared gate without shared expert',
    () => ({ sharedGate: Tensor.zeros([1, 24]) }),
    'INVALID_TYPE',
    /shared must be/,
  ],
  [
    'activation',
    () => ({ activation: 'mish' as never }),
    'INVALID_ARGUMENT',
    /activation must be one of 'silu'/,
  ],
  [
    'precision',
    () => ({ precision: 'int8' as never }),
    'INVALID_ARGUMENT',
    /precision must be one of 'exact', 'fast'/,
  ],
  ['layerIndex', () => ({ layerIndex: -1 }), 'INVALID_ARGUMENT', /layerIndex/],
  ['cuda', () => ({ device: 'cuda:99' }), 'DEVICE_UNAVAILABLE', /CUDA device 99 cannot be used/],
  ['signal', () => ({ signal: 1 as never }), 'INVALID_TYPE', /signal/],
  [
    'a disposed tensor',
    () => ({ routerWeight: disposed([4, 24]) }),
    'DISPOSED',
    /tensor was used after dispose/,
  ],
]

function disposed(shape: number[]): Tensor {
  const tensor = Tensor.zeros(shape)
  tensor.dispose()
  return tensor
}

test.each(creations)('MoeLayer.create refuses %s', async (_, change, code, message) => {
  const call = () => MoeLayer.create({ ...description(), ...change() })
  await expectFailure(call, `ERR_SMOE_${code}`, message)
})

const ids = (values: number[], k: number) => Tensor.from(values, [values.length / k, k], 'i32')
const forwards: [string, unknown, ForwardOptions | undefined, string, RegExp][] = [
  ['undefined', undefined, undefined, 'INVALID_TYPE', /hidden must be a Tensor, got undefined/],
  [
    'a bare array',
    new Float32Array(48),
    undefined,
    'INVALID_TYPE',
    /hidden must be a Tensor, got Float32Array of length 48/,
  ],
  [
    'another width',
    Tensor.zeros([2, 25]),
    undefined,
    'SHAPE_MISMATCH',
    /hidden must have shape \[T, 24\], got \[2, 25\]/,
  ],
  ['three dimensions', Tensor.zeros([1, 2, 24]), undefined, 'SHAPE_MISMATCH', /hidden/],
  [
    'integers',
    Tensor.zeros([2, 24], 'i8'),
    undefined,
    'DTYPE_MISMATCH',
    /hidden must be f32, f16 or bf16, got i8/,
  ],
  ['NaN', Tensor.from(Array(48).fill(NaN), [2, 24]), undefined, 'NON_FINITE_INPUT', /hidden: row 0/],
  ['a disposed tensor', disposed([2, 24]), undefined, 'DISPOSED', /tensor was used/],
  ['options that are no object', hidden, 3 as never, 'INVALID_TYPE', /options must be an object/],
  ['a state that is none', hidden, { state: {} as never }, 'INVALID_TYPE', /state must be a MomentumState/],
  [
    'residual of another shape',
    hidden,
    { residual: one },
    'SHAPE_MISMATCH',
    /residual must have shape \[2, 24\], got \[1\]/,
  ],
  ['out of another shape', hidden, { out: one }, 'SHAPE_MISMATCH', /out must have shape/],
  [
    'out of another dtype',
    hidden,
    { out: Tensor.zeros([2, 24], 'bf16') },
    'DTYPE_MISMATCH',
    /out must have the dtype of hidden, f32, got bf16/,
  ],
  [
    'ids outside the experts',
    hidden,
    { routing: { ids: ids([0, 4], 1), weights: Tensor.zeros([2, 1]) } },
    'INVALID_ARGUMENT',
    /4/,
  ],
  [
    'ids below -1',
    hidden,
    { routing: { ids: ids([0, -2], 1), weights: Tensor.zeros([2, 1]) } },
    'INVALID_ARGUMENT',
    /-2/,
  ],
  [
    'f32 ids',
    hidden,
    { routing: { ids: Tensor.zeros([2, 1]) as never, weights: Tensor.zeros([2, 1]) } },
    'DTYPE_MISMATCH',
    /routing.ids must be i32/,
  ],
  [
    'routing for other tokens',
    hidden,
    { routing: { ids: ids([0], 1), weights: Tensor.zeros([1, 1]) } },
    'SHAPE_MISMATCH',
    /routing.ids must have shape \[2, K\], got \[1, 1\]/,
  ],
  [
    'weights of another shape',
    hidden,
    { routing: { ids: ids([0, 1], 1), weights: Tensor.zeros([2, 2]) } },
    'SHAPE_MISMATCH',
    /routing.weights/,
  ],
]

test.each(forwards)('forward refuses %s, in both forms', async (_, input, options, code, message) => {
  await expectFailure(() => layer.forward(input as Tensor, options), `ERR_SMOE_${code}`, message)
  await expectFailure(() => layer.forwardSync(input as Tensor, options), `ERR_SMOE_${code}`, message)
})

test('the asynchronous form rejects, it never throws', () => {
  const promise = layer.forward(undefined as never)
  return expect(promise).rejects.toThrow(/hidden/)
})

const buffers: [string, (tensor: Tensor) => Promise<unknown>][] = [
  ['hidden', (tensor) => layer.forward(tensor)],
  ['residual', (residual) => layer.forward(hidden, { residual })],
  ['out', (out) => layer.forward(hidden, { out })],
]
test.each(buffers)('%s over a transferred buffer', async (_, call) => {
  const tensor = Tensor.zeros([2, 24])
  structuredClone(tensor.data().buffer, { transfer: [tensor.data().buffer as ArrayBuffer] })
  await expectFailure(() => call(tensor), 'ERR_SMOE_DETACHED_BUFFER', /transferred/)
})

test('out transferred while the call runs is refused, not written', async () => {
  const out = Tensor.zeros([2, 24])
  const call = layer.forward(hidden, { out })
  structuredClone(out.data().buffer, { transfer: [out.data().buffer as ArrayBuffer] })
  await expectFailure(() => call, 'ERR_SMOE_DETACHED_BUFFER', /out/)
})

test('a disposed layer, router or model says so; dispose again is harmless', async () => {
  const other = await MoeLayer.create(description())
  const running = other.forward(hidden)
  other.dispose()
  other.dispose()
  expect((await running).shape).toEqual([2, 24])
  await expectFailure(() => other.forward(hidden), 'ERR_SMOE_DISPOSED', /layer was used after dispose/)
  await expectFailure(() => other.forwardSync(hidden), 'ERR_SMOE_DISPOSED', /layer/)
  await expectFailure(() => other.stats(), 'ERR_SMOE_DISPOSED', /layer/)
  expect(other.memoryUsage()).toEqual({ native: 0, device: 0 })
  const router = new Router(plainShape.spec)
  router.dispose()
  await expectFailure(() => router.route(hidden), 'ERR_SMOE_DISPOSED', /router/)
  const short = await MoeModel.load(momentumModel)
  short.dispose()
  short.dispose()
  await expectFailure(() => short.forward([1]), 'ERR_SMOE_DISPOSED', /model/)
  await expectFailure(() => short.generate([1]).next(), 'ERR_SMOE_DISPOSED', /model/)
  await expectFailure(() => short.perplexity([1, 2]), 'ERR_SMOE_DISPOSED', /model/)
  expect(short.memoryUsage().native).toBe(0)
})

const models: [string, () => unknown, string, RegExp][] = [
  ['no folder', () => MoeModel.load(undefined as never), 'INVALID_TYPE', /dir must be a string/],
  [
    'a folder that is not there',
    () => MoeModel.load('/nowhere'),
    'FILE_NOT_FOUND',
    /config.json does not exist/,
  ],
  [
    'cuda',
    () => MoeModel.load(momentumModel, { device: 'cuda:99' }),
    'DEVICE_UNAVAILABLE',
    /CUDA device 99 cannot be used/,
  ],
  [
    'a context above the model',
    () => MoeModel.load(momentumModel, { contextLength: 257 }),
    'INVALID_ARGUMENT',
    /\[1, 256\], got 257/,
  ],
  [
    'onProgress',
    () => MoeModel.load(momentumModel, { onProgress: 1 as never }),
    'INVALID_TYPE',
    /onProgress/,
  ],
  ['no ids', () => model.forward([]), 'INVALID_ARGUMENT', /ids must be at least one token id/],
  [
    'an id of the vocabulary size',
    () => model.forward([4096]),
    'TOKEN_OUT_OF_RANGE',
    /ids\[0\] .* \[0, 4096\), got 4096/,
  ],
  ['a negative id', () => model.trace([1, -1]), 'TOKEN_OUT_OF_RANGE', /ids\[1\]/],
  ['a fractional id', () => model.forward([0.5]), 'TOKEN_OUT_OF_RANGE', /got 0.5/],
  [
    'text for ids',
    () => model.forward('text' as never),
    'INVALID_TYPE',
    /ids must be an array of token ids, got 'text'/,
  ],
  ['a float array', () => model.forward(new Float32Array(2) as never), 'INVALID_TYPE', /ids/],
  ['too many ids', () => model.forward(Array(257).fill(1)), 'CONTEXT_OVERFLOW', /256/],
  ['ids for encode', () => model.encode([1] as never), 'INVALID_TYPE', /text must be a string/],
  ['inspect without folder', () => inspect(1 as never), 'INVALID_TYPE', /dir/],
  ['threads', () => setThreads(0), 'INVALID_ARGUMENT', /threads must be an integer in \[1, /],
]
test.each(models)('model: %s', async (_, call, code, message) => {
  await expectFailure(call, `ERR_SMOE_${code}`, message)
})

test('an aborted signal stops every call before it starts, with its own reason', async () => {
  const reason = { why: 'shutdown' }
  const signal = AbortSignal.abort(reason)
  const router = new Router(plainShape.spec)
  for (const call of [
    () => layer.forward(hidden, { signal }),
    () => MoeLayer.create({ ...description(), signal }),
    () => MoeLayer.load(momentumModel, { layer: 0, signal }),
    () => router.route(hidden, { signal }),
    () => MoeModel.load(momentumModel, { signal }),
    () => model.forward([1], { signal }),
    () => model.trace([1], { signal }),
    () => model.perplexity([1, 2, 3], { context: 2, signal }),
    () => model.generate([1], { signal }).next(),
    () => model.encode('x', { signal }),
  ]) {
    await expect(call()).rejects.toBe(reason)
  }
})

test('devices and runtime', async () => {
  expect((await devices()).find(({ device }) => device === 'cpu')!.available).toBe(true)
  const { threads, maxThreads } = runtimeInfo()
  setThreads(1)
  expect(runtimeInfo().threads).toBe(1)
  setThreads(maxThreads)
  setThreads(threads)
})

test('without a binary, importing works and the first use explains', () => {
  const script = `
    const smoe = require(${JSON.stringify(path.join(__dirname, '..', '..', 'lib', 'index.ts'))})
    try { smoe.runtimeInfo() } catch (error) { console.log(error.name, error.code, error.message) }`
  const hook = path.join(__dirname, '..', 'helpers', 'typescript_hook.cjs')
  const env = { ...process.env, SMOE_NATIVE: '/nowhere/smoe.node' }
  const output = execFileSync(process.execPath, ['-r', hook, '-e', script], { env, encoding: 'utf8' })
  expect(output).toMatch(/^SmoeError ERR_SMOE_NATIVE_UNAVAILABLE smoe has no native addon for /)
  expect(output).toContain(`${process.platform} ${process.arch}`)
  for (const words of [
    '/nowhere/smoe.node (SMOE_NATIVE)',
    'npx smoe doctor',
    'unset SMOE_NATIVE, or set it',
  ]) {
    expect(output).toContain(words)
  }
  // Neither looked at nor to blame.
  for (const words of ['prebuilds', 'Release', 'npm rebuild', 'npm start'])
    expect(output).not.toContain(words)
})

test.each(['abc', '0', '-1', '1.5', '257', '1000', ' 2'])(
  'SMOE_THREADS=%p is refused at the first use',
  (threads) => {
    const script = `
    const smoe = require(${JSON.stringify(path.join(__dirname, '..', '..', 'lib', 'index.ts'))})
    const attempt = () => {
      try { return smoe.runtimeInfo().threads } catch (error) { return [error.name, error.code, error.message].join(' ') }
    }
    console.log(attempt())
    process.env.SMOE_THREADS = '1'
    console.log(attempt())`
    const hook = path.join(__dirname, '..', 'helpers', 'typescript_hook.cjs')
    const env = { ...process.env, SMOE_THREADS: threads }
    const output = execFileSync(process.execPath, ['-r', hook, '-e', script], { env, encoding: 'utf8' })
    expect(output).toBe(
      `RangeError ERR_SMOE_INVALID_ARGUMENT SMOE_THREADS must be an integer from 1 to 256, got '${threads}'\n1\n`,
    )
  },
)
