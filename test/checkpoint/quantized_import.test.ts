import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, inspect } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import {
  type SafetensorsDtype,
  type TensorToWrite,
  writeSafetensors,
} from '../../lib/checkpoint/write_safetensors'
import { expectFailure } from '../helpers/errors'
import { hf } from '../helpers/paths'
import * as encoders from '../helpers/quantized'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const source = hf('qwen3_moe')
const hidden = 64
const width = 64
const experts = 8

const compressed = (format: string, weights: object) => ({
  quant_method: 'compressed-tensors',
  format,
  config_groups: { group_0: { weights } },
})

const kinds: Record<string, { encode: (typeof encoders)[keyof typeof encoders]; config: object }> = {
  gptq: { encode: encoders.gptq, config: { quant_method: 'gptq', bits: 4, group_size: 32, desc_act: false } },
  awq: { encode: encoders.awq, config: { quant_method: 'awq', bits: 4, group_size: 32, version: 'gemm' } },
  'pack-quantized': {
    encode: encoders.packed,
    config: compressed('pack-quantized', { num_bits: 4, group_size: 32, strategy: 'group' }),
  },
  'int-quantized': {
    encode: encoders.int8,
    config: compressed('int-quantized', { num_bits: 8, strategy: 'channel' }),
  },
  fp8: {
    encode: encoders.fp8Block,
    config: { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [128, 128] },
  },
  mxfp4: { encode: encoders.mxfp4, config: compressed('mxfp4-pack-quantized', { num_bits: 4 }) },
  bitnet: { encode: encoders.bitnet, config: { quant_method: 'bitnet', linear_class: 'autobitlinear' } },
}

function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

type Change = (tensors: Record<string, TensorToWrite>) => void

/** The fixture with experts of our own: quantized, or the very same weights in f32. */
async function write(name: string, kind: string, plain: boolean, change?: Change): Promise<string> {
  const dir = path.join(folder, name)
  fs.mkdirSync(dir)
  const config = JSON.parse(fs.readFileSync(path.join(source, 'config.json'), 'utf8')) as object
  const { encode, config: quantization } = kinds[kind]!
  const own = plain ? {} : { quantization_config: quantization }
  fs.writeFileSync(
    path.join(dir, 'config.json'),
    JSON.stringify({ ...config, moe_intermediate_size: width, ...own }),
  )
  const tensors: Record<string, TensorToWrite> = {}
  const file = new FileSource(path.join(source, 'model.safetensors'))
  for (const entry of readSafetensorsHeader(file, 'model').tensors.values()) {
    if (entry.name.includes('.mlp.experts.')) continue
    const data = file.read(entry.offset, entry.bytes)
    tensors[entry.name] = { dtype: entry.dtype as SafetensorsDtype, shape: entry.shape, data }
  }
  file.close()
  const random = generator(7)
  for (const layer of [1, 2]) {
    for (let expert = 0; expert < experts; expert++) {
      for (const part of ['gate_proj', 'up_proj', 'down_proj']) {
        const stem = `model.layers.${layer}.mlp.experts.${expert}.${part}.`
        const [n, k] = part === 'down_proj' ? [hidden, width] : [width, hidden]
        const { tensors: stored, values } = encode(n, k, random)
        if (plain) tensors[`${stem}weight`] = { dtype: 'F32', shape: [n, k], data: values }
        else for (const [suffix, tensor] of Object.entries(stored)) tensors[stem + suffix] = tensor
      }
    }
  }
  change?.(tensors)
  await writeSafetensors(path.join(dir, 'model.safetensors'), tensors)
  return dir
}

const ids = Array.from({ length: 24 }, (_, i) => (i * 37) % 256)

async function logits(dir: string): Promise<Float32Array> {
  using model = await MoeModel.load(dir, { precision: 'exact' })
  return (await model.forward(ids)).toF32Array()
}

test.each(Object.keys(kinds))(
  '%s: the model is the one of the weights that the codes stand for',
  async (kind) => {
    const dir = await write(kind, kind, false)
    const quantized = await logits(dir)
    const plain = await logits(await write(`${kind}-plain`, kind, true))
    const size = Math.max(...plain.map(Math.abs))
    // The same weights and f32 activations; only the order of additions differs between the kernels.
    plain.forEach((value, i) => expect(Math.abs(quantized[i]! - value)).toBeLessThan(2e-4 * size))
    const { unusedTensors } = inspect(dir)
    expect(unusedTensors).toEqual([])
  },
)

const stem = 'model.layers.1.mlp.experts.3.up_proj.'
const hostile: [string, string, Change, string, RegExp][] = [
  ['a missing part', 'gptq', (t) => delete t[`${stem}scales`], 'MISSING_TENSOR', /up_proj\.scales/],
  [
    'groups out of order',
    'gptq',
    (t) => (t[`${stem}g_idx`]!.data = Int32Array.from({ length: 64 }, (_, i) => i % 2)),
    'INVALID_QUANTIZATION',
    /desc_act/,
  ],
  [
    'a scale that is no number',
    'awq',
    (t) => new Uint16Array(t[`${stem}scales`]!.data.buffer).fill(0x7e00),
    'INVALID_QUANTIZATION',
    /scale/,
  ],
  [
    'words too few',
    'pack-quantized',
    (t) => (t[`${stem}weight_packed`] = { dtype: 'I32', shape: [1, 1], data: new Int32Array(1) }),
    'INVALID_QUANTIZATION',
    /cannot hold/,
  ],
  [
    'another dtype',
    'pack-quantized',
    (t) => (t[`${stem}weight_packed`]!.dtype = 'F32'),
    'DTYPE_MISMATCH',
    /weight_packed must be I32/,
  ],
  [
    'NaN codes',
    'fp8',
    (t) => (t[`${stem}weight`]!.data as Uint8Array).fill(0x7f, 0, 1),
    'INVALID_QUANTIZATION',
    /NaN/,
  ],
  [
    'blocks of another size',
    'fp8',
    (t) => (t[`${stem}weight_scale_inv`] = { dtype: 'F32', shape: [3, 3], data: new Float32Array(9) }),
    'SHAPE_MISMATCH',
    /weight_scale_inv' .* must have shape \[1, 1\] .* got \[3, 3\]/,
  ],
  [
    'a scale of 255',
    'mxfp4',
    (t) => (t[`${stem}weight_scale`]!.data as Uint8Array).fill(255, 0, 1),
    'INVALID_QUANTIZATION',
    /255/,
  ],
  [
    'a digit of 3',
    'bitnet',
    (t) => (t[`${stem}weight`]!.data as Uint8Array).fill(0xff, 0, 1),
    'INVALID_QUANTIZATION',
    /codes go to 2/,
  ],
]

test.each(hostile)('%s is refused (%s)', async (name, kind, change, code, message) => {
  const dir = await write(name.replaceAll(' ', '-'), kind, false, change)
  await expectFailure(() => MoeModel.load(dir), `ERR_SMOE_${code}`, message)
})

test.each([
  [{ quant_method: 'quip' }, /'quip'.*known: gptq, awq, compressed-tensors, fp8, mxfp4, bitnet/],
  [{ quant_method: 'gptq', bits: 4, desc_act: true }, /desc_act/],
  [{ quant_method: 'gptq', bits: 4, checkpoint_format: 'marlin' }, /'marlin'/],
  [{ quant_method: 'awq', version: 'gemv' }, /'gemv'/],
  [{ quant_method: 'fp8', fmt: 'e5m2' }, /'e5m2'/],
  [compressed('marlin-24', { num_bits: 4 }), /'marlin-24'/],
])('%j is refused by its name', async (quantization, message) => {
  const dir = fs.mkdtempSync(path.join(folder, 'config-'))
  const config = JSON.parse(fs.readFileSync(path.join(source, 'config.json'), 'utf8')) as object
  fs.writeFileSync(
    path.join(dir, 'config.json'),
    JSON.stringify({ ...config, quantization_config: quantization }),
  )
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_UNSUPPORTED_ARCHITECTURE', message)
})
