import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, inspect } from '../../lib'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { expectFailure } from '../helpers/errors'
import { hf, quantized } from '../helpers/paths'
import { safetensors, temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
let count = 0

interface Stored {
  dtype: string
  shape: number[]
  data: Uint8Array
}
type Change = (tensors: Map<string, Stored>, config: Record<string, unknown>) => void

/** A copy of a checkpoint with changed tensors or config. */
function changed(base: string, change: Change): string {
  const file = new FileSource(path.join(base, 'model.safetensors'))
  const tensors = new Map<string, Stored>()
  for (const entry of readSafetensorsHeader(file, 'fixture').tensors.values()) {
    const { name, dtype, shape, offset, bytes } = entry
    tensors.set(name, { dtype, shape: [...shape], data: file.read(offset, bytes) })
  }
  file.close()
  const config = JSON.parse(fs.readFileSync(path.join(base, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >
  change(tensors, config)
  const header: Record<string, unknown> = {}
  let offset = 0
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.length] }
    offset += data.length
  }
  const data = Buffer.concat([...tensors.values()].map((tensor) => tensor.data))
  const dir = path.join(folder, String(count++))
  fs.mkdirSync(dir)
  fs.writeFileSync(path.join(dir, 'config.json'), JSON.stringify(config))
  fs.writeFileSync(path.join(dir, 'model.safetensors'), safetensors(header, data))
  return dir
}

const qwen = quantized('qwen3_moe_fp8')
const oss = quantized('gpt_oss_mxfp4')
const gate = 'model.layers.1.mlp.experts.3.gate_proj.weight'
const blocks = 'model.layers.0.mlp.experts.gate_up_proj_blocks'
const scales = 'model.layers.0.mlp.experts.gate_up_proj_scales'

const reshaped =
  (name: string, shape: number[], dtype?: string): Change =>
  (tensors) => {
    const tensor = tensors.get(name)!
    const bytes = shape.reduce((product, size) => product * size, tensor.data.length)
    const elements = tensor.shape.reduce((product, size) => product * size, 1)
    tensors.set(name, {
      dtype: dtype ?? tensor.dtype,
      shape,
      data: new Uint8Array(bytes / elements).fill(60),
    })
  }

test('summaries count weights, not codes and scales', () => {
  const { parameters, unusedTensors, bytes, kvCacheBytes } = inspect(oss)
  expect(unusedTensors).toEqual([])
  const experts = 2 * 8 * 3 * 64 * 96
  expect(parameters.total - parameters.active).toBe((experts * 5) / 8)
  expect(bytes).toBeLessThan(parameters.total * 1.2)
  expect(kvCacheBytes.fast).toBe(2 * 2 * 2 * 2 * 16 * 128)
  expect(inspect(qwen).layers[0]!.formats).toHaveProperty('F8_E4M3')
  // one latent of 32 and one rotated part of 16 per layer and token
  expect(inspect(quantized('deepseek_v3_fp8')).kvCacheBytes.exact).toBe(4 * 2 * (32 + 16) * 128)
})

test('scales in bf16, and plain weights among coded ones', async () => {
  const dir = changed(qwen, (tensors) => {
    for (const [name, tensor] of tensors) {
      if (!name.endsWith('_scale_inv')) continue
      const wide = new Uint16Array(tensor.data.slice().buffer)
      const data = new Uint16Array(wide.length / 2).map((_, i) => wide[2 * i + 1]!)
      tensors.set(name, { ...tensor, dtype: 'BF16', data: new Uint8Array(data.buffer) })
    }
    const plain = 160 * 192 * 2
    tensors.set(gate, { dtype: 'BF16', shape: [160, 192], data: new Uint8Array(plain) })
    tensors.delete(`${gate}_scale_inv`)
  })
  using model = await MoeModel.load(dir)
  expect((await model.forward([1, 2, 3])).data().every(Number.isFinite)).toBe(true)
})

test.each([NaN, 0, -1, Infinity])('a block scale of %p is refused by name', async (value) => {
  const dir = changed(qwen, (tensors) => {
    new DataView(tensors.get(`${gate}_scale_inv`)!.data.buffer).setFloat32(8, value, true)
  })
  await expectFailure(
    () => MoeModel.load(dir),
    'ERR_SMOE_INVALID_QUANTIZATION',
    /experts\[3\]\.gate scale \[1, 0\] must be finite and above 0, got/,
  )
})

test('an MXFP4 exponent of 255 is no number', async () => {
  const dir = changed(oss, (tensors) => {
    tensors.get(scales)!.data[2 * 192 * 2 + 5 * 2 + 1] = 255 // expert 2, row 5: unit 2 of the up projection
  })
  await expectFailure(
    () => MoeModel.load(dir),
    'ERR_SMOE_INVALID_QUANTIZATION',
    /experts\[2\]\.(gate|up) scale \[5, 1\]/,
  )
})

const refusals: [string, string, Change, string, RegExp][] = [
  [
    'scales of another shape',
    qwen,
    reshaped(`${gate}_scale_inv`, [2, 1]),
    'SHAPE_MISMATCH',
    /3\.gate_proj\.weight_scale_inv' .* shape \[2, 2\] by config\.json, got \[2, 1\]/,
  ],
  [
    'a block size that the scales do not have',
    qwen,
    (_, config) => Object.assign(config['quantization_config'] as object, { weight_block_size: [64, 64] }),
    'SHAPE_MISMATCH',
    /_scale_inv' .* must have shape/,
  ],
  [
    'scales that are missing',
    qwen,
    (t) => t.delete(`${gate}_scale_inv`),
    'MISSING_TENSOR',
    /3\.gate_proj\.weight_scale_inv/,
  ],
  [
    'scales of a foreign dtype',
    qwen,
    reshaped(`${gate}_scale_inv`, [2, 2], 'I32'),
    'DTYPE_MISMATCH',
    /must be F32, F16, BF16 or F8_E8M0, got I32/,
  ],
  [
    'codes of another shape',
    qwen,
    reshaped(gate, [160, 191]),
    'SHAPE_MISMATCH',
    /\[160, 192\] .* got \[160, 191\]/,
  ],
  [
    'codes without quantization_config',
    qwen,
    (_, config) => delete config['quantization_config'],
    'DTYPE_MISMATCH',
    /must be F32, F16 or BF16, got F8_E4M3/,
  ],
  [
    'blocks of another shape',
    oss,
    reshaped(blocks, [8, 192, 4, 8]),
    'SHAPE_MISMATCH',
    /_blocks' .* \[8, 192, 2, 16\]/,
  ],
  [
    'scales for fewer groups',
    oss,
    reshaped(scales, [8, 192, 1]),
    'SHAPE_MISMATCH',
    /_scales' .* \[8, 192, 2\]/,
  ],
  [
    'blocks that are not bytes',
    oss,
    reshaped(blocks, [8, 192, 2, 16], 'I8'),
    'DTYPE_MISMATCH',
    /must be U8, got I8/,
  ],
  ['scales that are missing', oss, (t) => t.delete(scales), 'MISSING_TENSOR', /gate_up_proj_scales/],
  [
    'rows that are no whole groups',
    oss,
    (tensors, config) => {
      config['intermediate_size'] = 100
      reshaped(blocks, [8, 200, 2, 16])(tensors, config)
      reshaped(scales, [8, 200, 2])(tensors, config)
    },
    'SHAPE_MISMATCH',
    /down_proj_blocks': rows of 100 weights are no multiple of 32/,
  ],
]

test.each(refusals)('refuses: %s', async (_, base, change, code, message) => {
  const dir = changed(base, change)
  await expectFailure(() => inspect(dir), `ERR_SMOE_${code}`, message)
  await expectFailure(() => MoeModel.load(dir), `ERR_SMOE_${code}`, message)
})

const configs: [string, unknown, string, RegExp][] = [
  [
    'another method',
    { quant_method: 'quanto', bits: 4 },
    'UNSUPPORTED_ARCHITECTURE',
    /'quanto'.*known: gptq, awq, .*fp8, mxfp4/,
  ],
  ['no method', {}, 'INVALID_CONFIG', /quant_method in quantization_config of .* must be a string/],
  ['no object', 7, 'INVALID_CONFIG', /quantization_config .* an object/],
  ['the other FP8', { quant_method: 'fp8', fmt: 'e5m2' }, 'UNSUPPORTED_ARCHITECTURE', /'e5m2'/],
  [
    'a flat block',
    { quant_method: 'fp8', weight_block_size: [128, 0] },
    'INVALID_CONFIG',
    /two sizes above 0/,
  ],
  [
    'three sizes',
    { quant_method: 'fp8', weight_block_size: [1, 2, 3] },
    'INVALID_CONFIG',
    /two sizes above 0/,
  ],
  [
    'MXFP4 where experts are separate',
    { quant_method: 'mxfp4' },
    'UNSUPPORTED_ARCHITECTURE',
    /not supported for qwen3_moe/,
  ],
]

test.each(configs)('quantization_config with %s', async (_, value, code, message) => {
  const dir = changed(hf('qwen3_moe'), (_tensors, config) => {
    config['quantization_config'] = value
  })
  await expectFailure(() => inspect(dir), `ERR_SMOE_${code}`, message)
})
