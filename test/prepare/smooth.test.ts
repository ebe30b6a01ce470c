import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, type QuantizeOptions, inspect, quantizeCheckpoint } from '../../lib'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { openCheckpoint } from '../../lib/checkpoint/open'
import type { PendingWeight } from '../../lib/checkpoint/quantized/pending'
import { type TensorToWrite, writeSafetensors } from '../../lib/checkpoint/write_safetensors'
import { scaledColumns, storedTensor } from '../../lib/prepare/fold'
import { expectFailure } from '../helpers/errors'
import { hf, momentumModel, slice } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
let count = 0

/** Token ids that reach every expert of the small fixtures. */
const ids = Int32Array.from({ length: 1024 }, (_, i) => (i * 7919 + (i >> 3) * 31) % 256)
const prompt = Array.from(ids.subarray(100, 130))

/** A fixture whose norms have a few channels 16 times as large, as large models have them: something to smooth. */
async function withOutliers(family: string): Promise<string> {
  const dir = path.join(folder, `${family}-${count++}`)
  fs.mkdirSync(dir)
  fs.copyFileSync(path.join(hf(family), 'config.json'), path.join(dir, 'config.json'))
  const checkpoint = Checkpoint.openHeaders(hf(family))
  const tensors: Record<string, TensorToWrite> = {}
  for (const entry of checkpoint.tensors.values()) {
    const tensor = storedTensor(checkpoint, entry)
    const { name, shape } = entry
    if (!name.includes('post_attention_layernorm')) {
      tensors[name] = tensor
      continue
    }
    const scale = Float32Array.from({ length: shape[0]! }, (_, j) => (j % 11 === 3 ? 16 : 1))
    tensors[name] = scaledColumns(tensor, scale)
  }
  checkpoint.close()
  await writeSafetensors(path.join(dir, 'model.safetensors'), tensors)
  return dir
}

async function logits(dir: string): Promise<Float32Array> {
  using model = await MoeModel.load(dir, { precision: 'exact' })
  return (await model.forward(prompt)).toF32Array()
}

async function quantized(dir: string, options: QuantizeOptions): Promise<string> {
  const out = path.join(folder, `out-${count++}`)
  await quantizeCheckpoint(dir, out, {
    calibration: ids,
    calibrationContext: 64,
    method: 'rtn',
    group: 16,
    ...options,
  })
  return out
}

function distance(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / b.reduce((sum, x) => sum + x * x, 0))
}

/** Everything of a checkpoint, its quantized experts as f32. */
async function plainTensors(dir: string): Promise<Record<string, TensorToWrite>> {
  const architecture = readArchitecture(dir)
  const checkpoint = openCheckpoint(dir, architecture)
  const tensors: Record<string, TensorToWrite> = {}
  for (const entry of checkpoint.tensors.values())
    if (!/^layers\./.test(entry.name)) tensors[entry.name] = storedTensor(checkpoint, entry)
  for (const { moe } of architecture.layers) {
    for (let e = 0; e < (moe?.experts ?? 0); e++) {
      const names = moe!.expert(e)
      for (const projection of ['gate', 'up', 'down'] as const) {
        const shape = [names.width, architecture.hidden]
        if (projection === 'down') shape.reverse()
        const found = checkpoint.quantized!.find(names[projection], shape) as unknown as PendingWeight
        const matrix = await found.make(undefined)
        tensors[names[projection]] = { dtype: 'F32', shape, data: matrix.dequantize() }
        matrix.dispose()
      }
    }
  }
  checkpoint.close()
  return tensors
}

const floats = ({ data }: TensorToWrite) => data as Float32Array
const f32 = (tensor: TensorToWrite): Float32Array => {
  const { data } = tensor
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
  if (tensor.dtype === 'F32') return new Float32Array(bytes.buffer)
  const words = new Uint16Array(bytes.buffer)
  return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer)
}

/**
 * Undoes the folding: the norm as it was, the router and the shared expert as they were, the experts' weights with their
 * columns divided again. What is left differs from the folded checkpoint by nothing but the folding.
 */
async function unfolded(original: string, folded: string): Promise<Record<string, TensorToWrite>> {
  const tensors = await plainTensors(folded)
  const architecture = readArchitecture(original)
  const checkpoint = openCheckpoint(original, architecture)
  const stored = (name: string) => storedTensor(checkpoint, checkpoint.use(name))
  let spread = 1
  for (const { moe, prefix } of architecture.layers) {
    if (moe === undefined) continue
    const norm = `${prefix}post_attention_layernorm.weight`
    const before = f32(stored(norm))
    const after = f32(tensors[norm]!)
    const scale = before.map((value, i) => value / after[i]!)
    for (const value of scale) expect(Number.isInteger(Math.log2(value))).toBe(true)
    spread = Math.max(spread, Math.max(...scale) / Math.min(...scale))
    const inverse = scale.map((value) => 1 / value)
    tensors[norm] = stored(norm)
    const router = moe.routerWeight.find((name) => checkpoint.has(name))!
    const around = [router]
    if (moe.shared !== undefined) around.push(moe.shared.gate, moe.shared.up)
    if (moe.shared?.sigmoidGate !== undefined) around.push(moe.shared.sigmoidGate)
    for (const name of around) {
      expect(tensors[name]!.dtype).toBe(stored(name).dtype)
      tensors[name] = stored(name)
    }
    for (let e = 0; e < moe.experts; e++) {
      const names = moe.expert(e)
      for (const name of [names.gate, names.up]) tensors[name] = scaledColumns(tensors[name]!, inverse)
      // Of up to down: the original up says by what power of two its rows were divided.
      const up = tensors[names.up]!
      const source = f32(stored(names.up))
      const columns = architecture.hidden
      const size = (values: Float32Array, row: number) =>
        values.subarray(row * columns, (row + 1) * columns).reduce((sum, value) => sum + Math.abs(value), 0)
      const units = Float32Array.from(
        { length: names.width },
        (_, row) => 2 ** Math.round(Math.log2(size(source, row) / size(floats(up), row))),
      )
      tensors[names.up] = {
        ...up,
        data: floats(up).map((value, i) => value * units[Math.floor(i / columns)]!),
      }
      tensors[names.down] = scaledColumns(
        tensors[names.down]!,
        units.map((value) => 1 / value),
      )
    }
  }
  checkpoint.close()
  expect(spread).toBeGreaterThan(1) // else nothing was folded and the test shows nothing
  return tensors
}

async function write(name: string, config: string, tensors: Record<string, TensorToWrite>): Promise<string> {
  const dir = path.join(folder, name)
  fs.mkdirSync(dir)
  fs.copyFileSync(path.join(config, 'config.json'), path.join(dir, 'config.json'))
  await writeSafetensors(path.join(dir, 'model.safetensors'), tensors)
  return dir
}

describe.each(['awq', 'eaquant'] as const)('%s', (smooth) => {
  // qwen2_moe has a shared expert behind a gate, deepseek_v3 one without and a router bias, mixtral neither.
  test.each(['qwen2_moe', 'qwen3_moe', 'mixtral', 'deepseek_v3'])(
    'folding into norm, router, experts and shared expert of %s changes no bit',
    async (family) => {
      const original = await withOutliers(family)
      const folded = await quantized(original, { format: 'w8', smooth })
      const with_ = await write(`with-${count++}`, original, await plainTensors(folded))
      const without = await write(`without-${count++}`, original, await unfolded(original, folded))
      expect(await logits(with_)).toEqual(await logits(without))
    },
  )

  test.each(['qwen2_moe', 'qwen3_moe', 'mixtral', 'olmoe', 'deepseek_v2', 'deepseek_v3', 'gpt_oss'])(
    '%s computes the same function up to quantization',
    async (family) => {
      const original = await withOutliers(family)
      const dir = await quantized(original, { format: 'w8', smooth })
      expect(inspect(dir).unusedTensors).toEqual([])
      const [exact, smoothed] = [await logits(original), await logits(dir)]
      // w8 and a few changed choices of experts; scales that miss one consumer are off by factors.
      expect(distance(smoothed, exact)).toBeLessThan(0.1)
    },
  )
})

test('with outlier channels AWQ loses less than rounding alone', async () => {
  const original = await withOutliers('qwen3_moe')
  const exact = await logits(original)
  const options = { format: 'w4', method: 'rtn' } as const
  const plain = distance(await logits(await quantized(original, options)), exact)
  const awq = distance(await logits(await quantized(original, { ...options, smooth: 'awq' })), exact)
  expect(awq).toBeLessThan(0.9 * plain)
})

test('clamped and shifted units keep up and down as they are', async () => {
  const out = path.join(folder, `out-${count++}`)
  const { layers } = await quantizeCheckpoint(hf('gpt_oss'), out, {
    format: 'w4',
    method: 'awq',
    group: 32,
    calibration: ids,
    calibrationContext: 64,
  })
  for (const { smooth } of layers) expect(smooth).toMatchObject({ kind: 'awq', downs: 0 })
})

test('an aligned router is stored in 8 bits, chooses nearly as before, and goes with smoothing', async () => {
  const text = fs.readFileSync(slice, 'utf8')
  const half = Math.floor(text.length / 2)
  const out = path.join(folder, 'router')
  const { layers } = await quantizeCheckpoint(momentumModel, out, {
    format: 'w8',
    method: 'rtn',
    smooth: 'awq',
    alignRouter: true,
    calibration: text.slice(0, half),
    calibrationTokens: 2048,
  })
  for (const { router } of layers) {
    expect(router!.ratio).toBeGreaterThanOrEqual(0.35)
    expect(router!.kl).toBeLessThanOrEqual(router!.klPlain)
    expect(router!.kl).toBeLessThan(1e-3)
  }
  const checkpoint = Checkpoint.openHeaders(out)
  expect(checkpoint.tensors.get('layers.0.router.weight.w8.codes')).toMatchObject({ dtype: 'U8' })
  expect(checkpoint.has('model.layers.0.mlp.gate.weight')).toBe(false)
  checkpoint.close()
  const perplexity = async (dir: string) => {
    using model = await MoeModel.load(dir, { precision: 'exact' })
    return (await model.perplexity(text.slice(half), { context: 256, limitTokens: 2048 })).perplexity
  }
  const ratio = (await perplexity(out)) / (await perplexity(momentumModel))
  expect(Math.abs(ratio - 1)).toBeLessThan(0.005)
})

test.each(['nesterov', 'robust'])(
  'momentum of type %s is added after the norm: its scales could not be folded',
  async (type) => {
    const dir = path.join(folder, type)
    fs.cpSync(momentumModel, dir, { recursive: true })
    const file = path.join(dir, 'config.json')
    const config = JSON.parse(fs.readFileSync(file, 'utf8')) as { momentum_smoe: object }
    const values = type === 'robust' ? { mu: 0.2, gamma: 1.25, L: 1 } : { mu: 0.7, gamma: 0.5 }
    fs.writeFileSync(file, JSON.stringify({ ...config, momentum_smoe: { type, ...values } }))
    await expectFailure(
      () => quantizeCheckpoint(dir, path.join(folder, 'refused'), { smooth: 'eaquant', calibration: ids }),
      'ERR_SMOE_UNSUPPORTED_ARCHITECTURE',
      /cannot be folded/,
    )
  },
)

test.each([
  ['awq without text', { method: 'awq' }, 'INVALID_TYPE', /calibration must be .*'awq'/],
  ['smoothing without text', { smooth: 'eaquant' }, 'INVALID_TYPE', /calibration must be/],
  ['an aligned router without text', { alignRouter: true }, 'INVALID_TYPE', /alignRouter/],
  [
    'awq with another smoothing',
    { method: 'awq', smooth: 'eaquant', calibration: ids },
    'INVALID_ARGUMENT',
    /smooth/,
  ],
  ['an unknown smoothing', { smooth: 'quarot', calibration: ids }, 'INVALID_ARGUMENT', /smooth must be one/],
  [
    'awq for a codebook',
    { format: 'w4c', smooth: 'awq', calibration: ids },
    'INVALID_ARGUMENT',
    /smooth must be not 'awq'/,
  ],
])('refuses %s', async (_, options, code, message) => {
  const call = () => quantizeCheckpoint(momentumModel, path.join(folder, 'refused'), options as object)
  await expectFailure(call, `ERR_SMOE_${code}`, message)
})
