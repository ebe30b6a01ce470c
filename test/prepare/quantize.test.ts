import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, inspect, quantizeCheckpoint } from '../../lib'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { expectFailure } from '../helpers/errors'
import { hf, momentumModel, slice } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const text = fs.readFileSync(slice, 'utf8')
const half = Math.floor(text.length / 2)
/** The first half calibrates, the second measures. */
const calibration = text.slice(0, half)
const measured = text.slice(half)

const families = [
  'qwen3_moe',
  'mixtral',
  'olmoe',
  'qwen2_moe',
  'deepseek_v2',
  'deepseek_v3',
  'gpt_oss',
] as const

const perplexities = new Map<string, number>()
async function perplexity(dir: string): Promise<number> {
  const known = perplexities.get(dir)
  if (known !== undefined) return known
  using model = await MoeModel.load(dir, { precision: 'exact' })
  const { perplexity: value } = await model.perplexity(measured, { context: 256, limitTokens: 6144 })
  perplexities.set(dir, value)
  return value
}

test('gptq on calibration text loses less than plain rounding, and both are read back', async () => {
  const rtn = path.join(folder, 'rtn')
  const gptq = path.join(folder, 'gptq')
  const options = { format: 'w2', symmetric: false } as const
  const plain = await quantizeCheckpoint(momentumModel, rtn, { ...options, method: 'rtn' })
  const phases = new Set<string>()
  const best = await quantizeCheckpoint(momentumModel, gptq, {
    ...options,
    calibration,
    calibrationTokens: 4096,
    onProgress: ({ phase }) => phases.add(phase),
  })
  expect([...phases]).toEqual(['calibrate', 'quantize'])
  expect(best.bytesAfter).toBe(plain.bytesAfter)
  // 2 bits, an f16 scale and a zero byte per 64: 2.375 bits of 16, and the ids.
  expect(best.bytesAfter / best.bytesBefore).toBeCloseTo(2.375 / 16, 3)
  const base = await perplexity(momentumModel)
  expect((await perplexity(gptq)) - base).toBeLessThan(0.6 * ((await perplexity(rtn)) - base))
  expect(inspect(gptq).unusedTensors).toEqual([])
  expect(fs.existsSync(path.join(gptq, 'tokenizer.json'))).toBe(true)
}, 120_000)

test('ternary with error compensation stays usable', async () => {
  const dir = path.join(folder, 'ternary')
  await quantizeCheckpoint(momentumModel, dir, { format: 't2', calibration, calibrationTokens: 4096 })
  expect((await perplexity(dir)) / (await perplexity(momentumModel))).toBeLessThan(1.25)
}, 120_000)

test('a mix keeps its budget, says why, and beats one format for all at more bits', async () => {
  const dir = path.join(folder, 'mix')
  const { plan, layers } = await quantizeCheckpoint(momentumModel, dir, {
    bits: 2.5,
    method: 'mse', // a quarter of the time of gptq, and the choice is the same in kind
    calibration,
    calibrationTokens: 4096,
  })
  const written = JSON.parse(fs.readFileSync(path.join(dir, 'quantize-plan.json'), 'utf8')) as typeof plan
  expect(written).toEqual(plan)
  for (const layer of layers) {
    expect(layer.bits).toBeLessThanOrEqual(2.5)
    expect(layer.cost).toBeGreaterThanOrEqual(layer.bound! * (1 - 1e-9))
    for (const { errors, share } of layer.experts) {
      expect(share).toBeGreaterThan(0)
      expect(errors!.w2).toBeGreaterThan(errors!.w3!)
      expect(errors!.w3).toBeGreaterThan(errors!.w4!)
    }
  }
  const uniform = path.join(folder, 'w2')
  await quantizeCheckpoint(momentumModel, uniform, {
    format: 'w2',
    method: 'mse',
    calibration,
    calibrationTokens: 4096,
  })
  const base = await perplexity(momentumModel)
  expect((await perplexity(dir)) - base).toBeLessThan(0.67 * ((await perplexity(uniform)) - base))
}, 120_000)

test('experts that calibration never reached are quantized by their weights and reported', async () => {
  const dir = path.join(folder, 'starved')
  const { layers } = await quantizeCheckpoint(momentumModel, dir, {
    bits: 3,
    calibration: Int32Array.from({ length: 64 }, () => 5),
    calibrationContext: 64,
  })
  const starved = layers.flatMap(({ experts }) => experts.filter(({ share }) => share === 0))
  expect(starved.length).toBeGreaterThan(0)
  for (const expert of starved)
    expect(expert).toMatchObject({ fallback: 'few calibration tokens', method: 'mse' })
  expect(layers.reduce((sum, { fallbacks }) => sum + fallbacks, 0)).toBeGreaterThanOrEqual(starved.length)
  expect(Number.isFinite(await perplexity(dir))).toBe(true)
}, 120_000)

test.each(['w8', 'w4', 'w4c', 'w3', 'w2', 'wn', 't2', 't5'] as const)(
  '%s is written and read by every family',
  async (format) => {
    for (const family of families) {
      const dir = path.join(folder, `${family}-${format}`)
      await quantizeCheckpoint(hf(family), dir, { format })
      using model = await MoeModel.load(dir)
      const logits = await model.forward([1, 2, 3])
      expect(logits.toF32Array().every((value) => Number.isFinite(value))).toBe(true)
    }
  },
)

test('fractional zeros keep their values through the file', async () => {
  const dir = path.join(folder, 'hqq')
  await quantizeCheckpoint(momentumModel, dir, { format: 'w2', method: 'hqq' })
  const checkpoint = Checkpoint.openHeaders(dir)
  expect(checkpoint.has('layers.0.experts.up.w2.mins')).toBe(true)
  checkpoint.close()
  expect((await perplexity(dir)) / (await perplexity(momentumModel))).toBeLessThan(1.3)
})

test('an aborted or failed call leaves nothing', async () => {
  const dir = path.join(folder, 'aborted')
  const controller = new AbortController()
  const reason = new Error('enough')
  const call = quantizeCheckpoint(momentumModel, dir, {
    calibration,
    signal: controller.signal,
    onProgress: ({ done }) => done === 2 && controller.abort(reason),
  })
  await expect(call).rejects.toBe(reason)
  expect(fs.readdirSync(folder).filter((name) => name.startsWith('aborted'))).toEqual([])
  fs.mkdirSync(dir)
  await expectFailure(() => quantizeCheckpoint(momentumModel, dir), 'ERR_SMOE_FILE_WRITE', /exists already/)
  const done = path.join(folder, 'hqq')
  await expectFailure(
    () => quantizeCheckpoint(done, path.join(folder, 'twice')),
    'ERR_SMOE_UNSUPPORTED_ARCHITECTURE',
    /quantized already/,
  )
})

test.each([
  ['an unknown format', { format: 'w5' }, 'INVALID_ARGUMENT', /format must be one of 'w8'/],
  ['gptq without text', { method: 'gptq' }, 'INVALID_TYPE', /calibration must be/],
  ['bits without text', { bits: 2.5 }, 'INVALID_TYPE', /calibration must be/],
  ['bits beyond 4', { bits: 5, calibration: 'x' }, 'INVALID_ARGUMENT', /bits must be/],
  [
    'bits and a format',
    { bits: 2, format: 'w4', calibration: 'x' },
    'INVALID_ARGUMENT',
    /format must be absent/,
  ],
  ['symmetric hqq', { method: 'hqq', symmetric: true }, 'INVALID_ARGUMENT', /symmetric must be false/],
  ['a group that does not divide', { group: 48 }, 'INVALID_ARGUMENT', /group 48 does not divide/],
  ['a text too short', { calibration: 'one' }, 'INVALID_ARGUMENT', /at least one window/],
])('refuses %s', async (_, options, code, message) => {
  const call = () => quantizeCheckpoint(momentumModel, path.join(folder, 'refused'), options as object)
  await expectFailure(call, `ERR_SMOE_${code}`, message)
  expect(fs.existsSync(path.join(folder, 'refused'))).toBe(false)
})

test('--format on load is plain rounding of the experts', async () => {
  using model = await MoeModel.load(momentumModel, { format: 'w4', precision: 'exact' })
  const { perplexity: value } = await model.perplexity(measured, { context: 256, limitTokens: 6144 })
  const ratio = value / (await perplexity(momentumModel))
  expect(ratio).toBeGreaterThan(1.002)
  expect(ratio).toBeLessThan(1.02)
})
