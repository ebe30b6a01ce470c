import fs from 'node:fs'
import path from 'node:path'
import { MoeLayer, MoeModel, type QuantizeOptions, Tensor, inspect, quantizeCheckpoint } from '../../lib'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { balanceTarget } from '../../lib/prepare/calibration'
import { chooseLayerFormats } from '../../lib/prepare/plan_quantize'
import { expectFailure } from '../helpers/errors'
import { hf, momentumModel, slice } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const text = fs.readFileSync(slice, 'utf8')
const half = Math.floor(text.length / 2)
const calibration = text.slice(0, half)
let count = 0

async function write(model: string, options: QuantizeOptions) {
  const dir = path.join(folder, String(count++))
  return { dir, ...(await quantizeCheckpoint(model, dir, options)) }
}

async function perplexity(dir: string, expertBits?: number): Promise<number> {
  using model = await MoeModel.load(dir, { precision: 'exact' })
  const options = { context: 256, limitTokens: 2048, ...(expertBits === undefined ? {} : { expertBits }) }
  return (await model.perplexity(text.slice(half), options)).perplexity
}

const dtypes = (dir: string, suffix: string) => {
  const checkpoint = Checkpoint.openHeaders(dir)
  const found = [...checkpoint.tensors.values()].filter(({ name }) => name.endsWith(suffix))
  checkpoint.close()
  return [...new Set(found.map(({ dtype }) => dtype))]
}

test('bit-nested experts are written, loaded and served at 2, 3 and 4 bits from one copy', async () => {
  const { dir, layers } = await write(momentumModel, { format: 'wn', calibration, calibrationTokens: 1024 })
  expect(inspect(dir).unusedTensors).toEqual([])
  expect(dtypes(dir, 'plane2.codes')).toEqual(['U8'])
  expect(layers[0]!.bits).toBe(4)
  const [two, three, four, all] = [
    await perplexity(dir, 2),
    await perplexity(dir, 3),
    await perplexity(dir, 4),
    await perplexity(dir),
  ]
  const base = await perplexity(momentumModel)
  expect(three).toBeLessThan(two)
  expect(four).toBeLessThan(three)
  expect(all).toBe(four)
  expect(four / base).toBeLessThan(1.05)
  // One plane less is a matrix of its own.
  const { dir: short } = await write(momentumModel, { format: 'wn', method: 'rtn', planes: 1 })
  expect(await perplexity(short, 4)).toBe(await perplexity(short, 3))
}, 120_000)

test.each([
  ['mxfp4', 'U8', 4.25],
  ['nvfp4', 'F8_E4M3', 4.5],
  ['nf4', 'F16', 4.5],
] as const)('w4c in %s: scales as %s, read back with its own codebook', async (codebook, dtype, bits) => {
  const { dir, bytesAfter, bytesBefore } = await write(momentumModel, { format: 'w4c', codebook })
  expect(dtypes(dir, '.scales')).toEqual([dtype])
  expect(bytesAfter / bytesBefore).toBeCloseTo(bits / 16, 2)
  const ratio = (await perplexity(dir)) / (await perplexity(momentumModel))
  expect(ratio).toBeGreaterThan(0.99)
  expect(ratio).toBeLessThan(1.03) // another codebook's values would be far off
})

test('codebooks differ from one another on a layer made in memory', async () => {
  const values = (n: number, seed: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * seed))
  const outs: number[][] = []
  for (const codebook of ['mxfp4', 'nvfp4', 'nf4'] as const) {
    const layer = await MoeLayer.create({
      router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 1 }, weigh: {} },
      routerWeight: Tensor.from(values(32, 0.3), [1, 32]),
      experts: [
        {
          up: Tensor.from(values(1024, 0.7), [32, 32]),
          down: Tensor.from(values(1024, 1.1), [32, 32]),
          format: 'w4c',
          codebook,
        },
      ],
    })
    outs.push([...(await layer.forward(Tensor.from(values(32, 0.9), [1, 32]))).toF32Array()])
    layer.dispose()
  }
  expect(outs[0]).not.toEqual(outs[1])
  expect(outs[1]).not.toEqual(outs[2])
})

test("MoTE's scheme: ternary experts beside a shared expert of full, of 8 or of 2 bits", async () => {
  const ids = Int32Array.from({ length: 512 }, (_, i) => (i * 37) % 256)
  const options = { format: 't2', method: 'rtn' } as const
  const source = hf('qwen2_moe')
  const logits = async (dir: string) => {
    using model = await MoeModel.load(dir, { precision: 'exact' })
    return (await model.forward([...ids.subarray(0, 24)])).toF32Array()
  }
  const distance = (a: Float32Array, b: Float32Array) =>
    Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0))
  const kept = await write(source, options)
  const exact = await logits(kept.dir)
  const errors: number[] = []
  for (const shared of ['bf16', 'w8', 't2'] as const) {
    const { dir, bytesBefore } = await write(source, { ...options, shared })
    errors.push(distance(await logits(dir), exact))
    expect(inspect(dir).unusedTensors).toEqual([])
    const checkpoint = Checkpoint.openHeaders(dir)
    const plain = checkpoint.tensors.get('model.layers.1.mlp.shared_expert.up_proj.weight')
    expect(plain?.dtype).toBe(shared === 'bf16' ? 'BF16' : undefined)
    expect(checkpoint.has(`layers.1.shared.up.${shared}.codes`)).toBe(shared !== 'bf16')
    checkpoint.close()
    if (shared !== 'bf16') expect(bytesBefore).toBeGreaterThan(kept.bytesBefore)
  }
  expect(errors[0]).toBeLessThan(errors[1]! + 1e-6)
  expect(errors[1]).toBeLessThan(0.2 * errors[2]!)
})

test('one format per layer keeps the budget of all, and says what each would have cost', async () => {
  const { layers, plan, dir } = await write(momentumModel, {
    bits: 2.5,
    allocate: 'layer',
    method: 'mse',
    calibration,
    calibrationTokens: 2048,
  })
  const bits = layers.map((layer) => layer.bits)
  expect(bits.reduce((sum, value) => sum + value, 0)).toBeLessThanOrEqual(2.5 * layers.length)
  expect(new Set(bits).size).toBeGreaterThan(1)
  for (const { experts, errors, cost, bound } of layers) {
    expect(new Set(experts.map(({ format }) => format)).size).toBe(1)
    expect(errors!.w2).toBeGreaterThan(errors!.w3!)
    expect(errors!.w3).toBeGreaterThan(errors!.w4!)
    expect(cost).toBeGreaterThanOrEqual(bound! * (1 - 1e-9))
  }
  expect(JSON.parse(fs.readFileSync(path.join(dir, 'quantize-plan.json'), 'utf8'))).toEqual(plan)
  const { dir: uniform } = await write(momentumModel, {
    format: 'w2',
    method: 'mse',
    calibration,
    calibrationTokens: 2048,
  })
  const base = await perplexity(momentumModel)
  expect((await perplexity(dir)) - base).toBeLessThan((await perplexity(uniform)) - base)
}, 120_000)

test('layers of different size share a budget by their weights', () => {
  const errors = { w2: 0.4, w3: 0.2, w4: 0.1 }
  const small = { weights: 300, errors }
  const large = { weights: 900, errors }
  const formats = ['w2', 'w3', 'w4'] as const
  // 2.5 bits of 1200 weights: 3000. The large layer at 2 bits leaves 1200: 4 bits for the small one. At 3 it would not fit.
  const { formats: chosen, size } = chooseLayerFormats([small, large], 2.5, formats)
  expect(chosen).toEqual(['w4', 'w2'])
  expect(size).toBe(10)
})

test('calibration goes on until every expert has its share, or the text ends', async () => {
  expect(balanceTarget(1000, 2, 16, 2)).toBe(250)
  expect(balanceTarget(10, 1, 3, 2)).toBe(7)
  const options = { format: 'w4', method: 'mse', calibration, calibrationTokens: 512 } as const
  const plain = await write(momentumModel, options)
  expect(plain.plan.calibrationTokens).toBe(512)
  const balanced = await write(momentumModel, { ...options, balance: 0.5 })
  expect(balanced.plan.calibrationTokens).toBeGreaterThan(512)
  const target = balanceTarget(512, 2, 16, 0.5)
  for (const { experts, tokens } of balanced.layers)
    for (const { share } of experts) expect(share * tokens!).toBeGreaterThanOrEqual(target - 1e-6)
  const short = await write(momentumModel, {
    ...options,
    calibration: Int32Array.from({ length: 300 }, () => 5),
    calibrationTokens: 64,
    calibrationContext: 64,
    balance: 2,
  })
  expect(short.plan.calibrationTokens).toBe(256)
}, 120_000)

test('starved experts: by their weights, or by the inputs of the whole layer; never a scale that is no number', async () => {
  const options = {
    format: 'w3',
    method: 'gptq',
    calibration: Int32Array.from({ length: 128 }, (_, i) => 5 + (i % 3)),
    calibrationContext: 64,
  } as const
  for (const starved of ['weights', 'layer'] as const) {
    const { dir, layers } = await write(momentumModel, { ...options, starved })
    const never = layers.flatMap(({ experts }) => experts.filter(({ share }) => share === 0))
    expect(never.length).toBeGreaterThan(0)
    for (const expert of never) {
      expect(expert).toMatchObject({ fallback: 'few calibration tokens', fallbackTo: starved })
      expect(expert.method).toBe(starved === 'layer' ? 'gptq' : 'mse')
    }
    expect(Number.isFinite(await perplexity(dir))).toBe(true) // the loader refuses scales that are NaN
  }
}, 120_000)

test('a mix of experts that are all starved keeps its budget', async () => {
  for (const allocate of ['pmq', 'layer'] as const) {
    const { layers, dir } = await write(momentumModel, {
      bits: 2.5,
      allocate,
      method: 'mse',
      leastShare: 1,
      calibration: Int32Array.from({ length: 64 }, (_, i) => 5 + ((i * 331) % 4000)),
      calibrationContext: 64,
    })
    const bits = layers.reduce((sum, layer) => sum + layer.bits, 0) / layers.length
    expect(bits).toBeLessThanOrEqual(2.5)
    expect(bits).toBeGreaterThan(2)
    for (const { fallbacks, experts } of layers) expect(fallbacks).toBe(experts.length)
    expect(Number.isFinite(await perplexity(dir))).toBe(true)
  }
}, 60_000)

test.each([
  [
    'a codebook of another format',
    { format: 'w4', codebook: 'nf4' },
    'INVALID_ARGUMENT',
    /codebook must be absent/,
  ],
  ['an unknown codebook', { format: 'w4c', codebook: 'nf5' }, 'INVALID_ARGUMENT', /codebook must be one of/],
  ['a group for a codebook', { format: 'w4c', group: 32 }, 'INVALID_ARGUMENT', /group must be absent/],
  ['a search for a codebook', { format: 'w4c', method: 'mse' }, 'INVALID_ARGUMENT', /method must be 'rtn'/],
  ['planes of another format', { format: 'w4', planes: 2 }, 'INVALID_ARGUMENT', /planes must be absent/],
  ['too many planes', { format: 'wn', planes: 7 }, 'INVALID_ARGUMENT', /planes/],
  ['an allocation without bits', { allocate: 'layer' }, 'INVALID_ARGUMENT', /allocate must be absent/],
  ['an unknown shared format', { shared: 'f8' }, 'INVALID_ARGUMENT', /shared must be one of/],
  ['balance without text', { balance: 2 }, 'INVALID_TYPE', /calibration/],
  ['an unknown policy', { starved: 'never' }, 'INVALID_ARGUMENT', /starved must be one of/],
])('refuses %s', async (_, options, code, message) => {
  const call = () => quantizeCheckpoint(momentumModel, path.join(folder, 'refused'), options as object)
  await expectFailure(call, `ERR_SMOE_${code}`, message)
})
