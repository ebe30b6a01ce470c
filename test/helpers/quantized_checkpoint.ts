import fs from 'node:fs'
import path from 'node:path'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import {
  type SafetensorsDtype,
  type TensorToWrite,
  writeSafetensors,
} from '../../lib/checkpoint/write_safetensors'
import { hf } from './paths'
import * as encoders from './quantized'

const source = hf('qwen3_moe')
const hidden = 64
const width = 64
const experts = 8
/** The matrix that hostile tests damage. */
export const victim = 'model.layers.1.mlp.experts.3.up_proj.'

export const compressed = (format: string, weights: object) => ({
  quant_method: 'compressed-tensors',
  format,
  config_groups: { group_0: { weights } },
})

export const kinds: Record<string, { encode: (typeof encoders)[keyof typeof encoders]; config: object }> = {
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
  'float-quantized': {
    encode: encoders.fp8Rows,
    config: compressed('float-quantized', { num_bits: 8, type: 'float', strategy: 'channel' }),
  },
  'pack-quantized, asymmetric': {
    encode: encoders.packedAsymmetric,
    config: compressed('pack-quantized', {
      num_bits: 4,
      group_size: 32,
      strategy: 'group',
      symmetric: false,
    }),
  },
  nvfp4: { encode: encoders.nvfp4, config: compressed('nvfp4-pack-quantized', { num_bits: 4 }) },
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

const encoded = new Map<string, Map<string, encoders.Encoded>>()

/** The experts of a kind by stem, the same at every call. */
function expertsOf(kind: string): Map<string, encoders.Encoded> {
  let stems = encoded.get(kind)
  if (stems !== undefined) return stems
  encoded.set(kind, (stems = new Map()))
  const random = generator(7)
  for (const layer of [1, 2]) {
    for (let expert = 0; expert < experts; expert++) {
      for (const part of ['gate_proj', 'up_proj', 'down_proj']) {
        const [n, k] = part === 'down_proj' ? [hidden, width] : [width, hidden]
        stems.set(`model.layers.${layer}.mlp.experts.${expert}.${part}.`, kinds[kind]!.encode(n, k, random))
      }
    }
  }
  return stems
}

function copied(tensor: TensorToWrite): TensorToWrite {
  const { buffer, byteOffset, byteLength } = tensor.data
  return { ...tensor, data: new Uint8Array(buffer, byteOffset, byteLength).slice() }
}

export type Change = (tensors: Record<string, TensorToWrite>) => void

/** The fixture with experts of our own in `dir`: quantized, or the very same weights in f32. */
export async function writeQuantized(
  dir: string,
  kind: string,
  plain: boolean,
  change?: Change,
  quantization: object = kinds[kind]!.config,
): Promise<string> {
  fs.mkdirSync(dir)
  const config = JSON.parse(fs.readFileSync(path.join(source, 'config.json'), 'utf8')) as object
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
  for (const [stem, { tensors: stored, values }] of expertsOf(kind)) {
    const [n, k] = stem.endsWith('down_proj.') ? [hidden, width] : [width, hidden]
    if (plain) tensors[`${stem}weight`] = { dtype: 'F32', shape: [n, k], data: values }
    // What a test may change must not change the next test's.
    else
      for (const [suffix, tensor] of Object.entries(stored))
        tensors[stem + suffix] = stem === victim ? copied(tensor) : tensor
  }
  change?.(tensors)
  await writeSafetensors(path.join(dir, 'model.safetensors'), tensors)
  return dir
}
