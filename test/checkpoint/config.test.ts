import fs from 'node:fs'
import path from 'node:path'
import { inspect } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { expectFailure } from '../helpers/errors'
import { families, hf, momentumModel, plainModel } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
let count = 0

/** A fixture's config with changes; undefined removes a field. */
function withConfig(base: string, changes: Record<string, unknown>, remove: string[] = []): string {
  const config = JSON.parse(fs.readFileSync(path.join(base, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >
  Object.assign(config, changes)
  for (const name of remove) delete config[name]
  const dir = path.join(folder, String(count++))
  fs.mkdirSync(dir)
  fs.writeFileSync(path.join(dir, 'config.json'), JSON.stringify(config))
  return dir
}

const read = (base: string, changes: Record<string, unknown>, remove?: string[]) =>
  readArchitecture(withConfig(base, changes, remove))

test.each(families)('%s: every tensor of the checkpoint is asked for, none is missing', (name) => {
  const summary = inspect(hf(name))
  expect(summary.unusedTensors).toEqual([])
  expect(summary.modelType).toBe(name)
  expect(summary.layers).toHaveLength(3)
  const dataBytes = fs.statSync(path.join(hf(name), 'model.safetensors')).size
  expect(summary.bytes).toBeLessThan(dataBytes)
  expect(summary.bytes).toBe(summary.parameters.total * 2) // all bf16
})

test('summary of the sample models', () => {
  const summary = inspect(momentumModel)
  expect(summary).toMatchObject({ vocab: 4096, hidden: 128, contextLength: 256, tokenizer: true })
  expect(summary.momentum).toEqual({ type: 'heavy_ball', mu: 0.7, gamma: 1, sign: 1 })
  expect(summary.layers[0]).toMatchObject({ kind: 'moe', experts: 16, expertsPerToken: 2, width: 128 })
  // 14 of 16 experts of 3 * 128 * 128 elements rest in each of 6 layers
  expect(summary.parameters.total - summary.parameters.active).toBe(6 * 14 * 3 * 128 * 128)
  expect(inspect(plainModel).momentum).toBeUndefined()
})

test('transformers 4 and 5 spell the same fields differently', () => {
  const base = readArchitecture(hf('qwen3_moe'))
  const old = read(hf('qwen3_moe'), { num_experts: 8, rope_theta: 10000, rope_scaling: null }, [
    'num_local_experts',
    'rope_parameters',
  ])
  expect(old.layers[1]!.moe!.experts).toBe(base.layers[1]!.moe!.experts)
  expect(old.rope).toEqual(base.rope)
})

test('head_dim null means hidden / heads', () => {
  expect(readArchitecture(hf('mixtral')).headDim).toBe(16)
})

test('which layers are dense', () => {
  const kinds = (changes: Record<string, unknown>) =>
    read(hf('qwen3_moe'), changes).layers.map((layer) => (layer.moe === undefined ? 'dense' : 'moe'))
  expect(kinds({})).toEqual(['dense', 'moe', 'moe'])
  expect(kinds({ mlp_only_layers: [], decoder_sparse_step: 2 })).toEqual(['dense', 'moe', 'dense'])
  expect(kinds({ mlp_only_layers: null })).toEqual(['moe', 'moe', 'moe'])
})

test('weights are normalised as the file says, for Mixtral always', () => {
  const norm = (name: string, changes: Record<string, unknown>, remove?: string[]) =>
    read(hf(name), changes, remove).layers[1]!.moe!.router.weigh!.norm
  expect(norm('qwen3_moe', {})).toEqual({ p: 1 })
  expect(norm('qwen3_moe', {}, ['norm_topk_prob'])).toBeUndefined()
  expect(norm('olmoe', {})).toBeUndefined()
  expect(norm('olmoe', { norm_topk_prob: true })).toEqual({ p: 1 })
  expect(norm('mixtral', { norm_topk_prob: false })).toEqual({ p: 1 })
})

test('sliding windows', () => {
  const windows = (name: string, changes: Record<string, unknown>, remove?: string[]) =>
    read(hf(name), changes, remove).layers.map((layer) => layer.window)
  const none = [undefined, undefined, undefined]
  expect(windows('qwen3_moe', { sliding_window: 8 })).toEqual(none)
  expect(windows('qwen3_moe', { sliding_window: 8, use_sliding_window: true, max_window_layers: 2 })).toEqual(
    [8, 8, 8],
  )
  const sliding = { sliding_window: 8, use_sliding_window: true }
  expect(windows('qwen2_moe', { ...sliding, max_window_layers: 2 }, ['layer_types'])).toEqual([
    undefined,
    undefined,
    8,
  ])
  const types = ['sliding_attention', 'full_attention', 'sliding_attention']
  expect(windows('qwen2_moe', { ...sliding, layer_types: types })).toEqual([8, undefined, 8])
  expect(windows('qwen2_moe', { sliding_window: 8, layer_types: types })).toEqual(none)
  expect(windows('mixtral', { sliding_window: 4 })).toEqual([4, 4, 4])
})

test('rotary frequencies', () => {
  const frequencies = (rope: object) => read(hf('mixtral'), { rope_parameters: rope }).rope
  const plain = frequencies({ rope_theta: 10000, rope_type: 'default' })
  expect(plain.invFreq).toHaveLength(8)
  plain.invFreq.forEach((f, i) => expect(f).toBeCloseTo(10000 ** (-i / 8), 6))
  const linear = frequencies({ rope_theta: 10000, type: 'linear', factor: 4 })
  linear.invFreq.forEach((f, i) => expect(f).toBe(Math.fround(plain.invFreq[i]! / 4)))
  const llama3 = frequencies({
    rope_theta: 10000,
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 128,
  })
  // wavelengths below 128 / 4 stay, above 128 are stretched, the one between (2 pi / 0.1 = 63) is blended
  expect(llama3.invFreq[0]).toBe(plain.invFreq[0])
  expect(llama3.invFreq[7]).toBe(Math.fround(plain.invFreq[7]! / 8))
  const smooth = (128 / ((2 * Math.PI) / plain.invFreq[2]!) - 1) / 3
  expect(llama3.invFreq[2]).toBeCloseTo(
    (1 - smooth) * (plain.invFreq[2]! / 8) + smooth * plain.invFreq[2]!,
    7,
  )
  const yarn = frequencies({
    rope_theta: 10000,
    rope_type: 'yarn',
    factor: 4,
    original_max_position_embeddings: 128,
    beta_fast: 4,
  })
  expect(yarn.invFreq[0]).toBe(plain.invFreq[0])
  expect(yarn.invFreq[7]).toBe(Math.fround(plain.invFreq[7]! / 4))
  expect(yarn.scale).toBeCloseTo(0.1 * Math.log(4) + 1, 12)
})

const refusals: [string, Record<string, unknown>, string, RegExp][] = [
  [
    'unknown model_type',
    { model_type: 'gpt9' },
    'UNSUPPORTED_ARCHITECTURE',
    /'gpt9'.*deepseek_v2, deepseek_v3, gpt_oss, mixtral, olmoe, qwen2_moe, qwen3_moe/,
  ],
  [
    'no model_type',
    { model_type: null },
    'INVALID_CONFIG',
    /model_type in .* must be a string, got undefined/,
  ],
  [
    'quantized',
    { quantization_config: { quant_method: 'quanto' } },
    'UNSUPPORTED_ARCHITECTURE',
    /quantization_config/,
  ],
  ['unknown activation', { hidden_act: 'mish' }, 'UNSUPPORTED_ARCHITECTURE', /hidden_act 'mish'/],
  [
    'dynamic rope',
    { rope_parameters: { rope_type: 'dynamic' } },
    'UNSUPPORTED_ARCHITECTURE',
    /'dynamic'.*known: default/,
  ],
  [
    'text size',
    { hidden_size: '64' },
    'INVALID_CONFIG',
    /hidden_size in .* must be a positive integer, got '64'/,
  ],
  ['zero size', { vocab_size: 0 }, 'INVALID_CONFIG', /vocab_size/],
  ['size above 31 bits', { vocab_size: 2 ** 31 }, 'INVALID_CONFIG', /vocab_size/],
  [
    'layers without end',
    { num_hidden_layers: 2 ** 30 },
    'INVALID_CONFIG',
    /num_hidden_layers .* at most 4096/,
  ],
  ['a head without end', { head_dim: 2 ** 30 }, 'INVALID_CONFIG', /head_dim .* at most 65536/],
  ['odd head', { head_dim: 15 }, 'INVALID_CONFIG', /head_dim .* even/],
  ['heads that do not divide', { num_key_value_heads: 3 }, 'INVALID_CONFIG', /divisor of the 4 heads, got 3/],
  ['k above E', { num_experts_per_tok: 9 }, 'INVALID_CONFIG', /at most the 8 experts, got 9/],
  [
    'momentum type',
    { momentum_smoe: { type: 'nadam' } },
    'INVALID_SPEC',
    /momentum_smoe of .*type must be one of/,
  ],
  [
    'momentum per layer',
    { momentum_smoe: { type: 'heavy_ball', mu: [0.5] } },
    'INVALID_CONFIG',
    /one per MoE layer \(2\)/,
  ],
  [
    'momentum that diverges',
    { momentum_smoe: { type: 'heavy_ball', mu: 1.5 } },
    'INVALID_SPEC',
    /momentum_smoe of .*mu must be between -1 and 1/,
  ],
  ['negative epsilon', { rms_norm_eps: -1 }, 'INVALID_CONFIG', /rms_norm_eps in .* at least 0, got -1/],
  ['epsilon beyond f32', { rms_norm_eps: 1e39 }, 'INVALID_CONFIG', /rms_norm_eps in .* finite number/],
  [
    'a rope that divides by zero',
    { rope_parameters: { rope_type: 'linear', factor: 1e-45, rope_theta: 10000 } },
    'INVALID_CONFIG',
    /rope_parameters .* finite/,
  ],
  [
    'a rope of negative factors',
    { rope_parameters: { rope_type: 'yarn', factor: 2, attention_factor: -1, rope_theta: 10000 } },
    'INVALID_CONFIG',
    /rope_parameters .* finite/,
  ],
  ['eos text', { eos_token_id: '</s>' }, 'INVALID_CONFIG', /eos_token_id/],
]

test('values of single families', async () => {
  const negative = () => read(hf('olmoe'), { clip_qkv: -8 })
  await expectFailure(negative, 'ERR_SMOE_INVALID_CONFIG', /clip_qkv in .* at least 0, got -8/)
  const none = () => read(hf('gpt_oss'), { swiglu_limit: 0 })
  await expectFailure(none, 'ERR_SMOE_INVALID_CONFIG', /swiglu_limit in .* above 0, got 0/)
})

test.each(refusals)('refuses: %s', async (_, changes, code, message) => {
  await expectFailure(() => read(hf('qwen3_moe'), changes), `ERR_SMOE_${code}`, message)
})

test('config.json that is missing, no JSON or no object', async () => {
  const dir = withConfig(hf('olmoe'), {})
  const file = path.join(dir, 'config.json')
  fs.writeFileSync(file, '[]')
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_INVALID_CONFIG', /must hold a JSON object/)
  fs.writeFileSync(file, '{"hidden_size": NaN}')
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_INVALID_CONFIG', /is not JSON/)
  fs.rmSync(file)
  await expectFailure(() => readArchitecture(dir), 'ERR_SMOE_FILE_NOT_FOUND', /config.json does not exist/)
})

test('a config that does not fit its tensors names the tensor and both shapes', async () => {
  const dir = withConfig(hf('olmoe'), { intermediate_size: 64 })
  fs.copyFileSync(path.join(hf('olmoe'), 'model.safetensors'), path.join(dir, 'model.safetensors'))
  await expectFailure(
    () => inspect(dir),
    'ERR_SMOE_SHAPE_MISMATCH',
    /'model.layers.0.mlp.experts.0.gate_proj.weight' .* shape \[64, 64\] .*, got \[48, 64\]/,
  )
})
