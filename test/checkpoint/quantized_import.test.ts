import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, inspect } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { expectFailure } from '../helpers/errors'
import { hf } from '../helpers/paths'
import { type Change, compressed, kinds, victim, writeQuantized } from '../helpers/quantized_checkpoint'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const source = hf('qwen3_moe')
const write = (name: string, kind: string, plain: boolean, change?: Change) =>
  writeQuantized(path.join(folder, name), kind, plain, change)

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

const stem = victim
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
