import fs from 'node:fs'
import path from 'node:path'
import { inspect } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { expectFailure } from '../helpers/errors'
import { hf } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
let count = 0

/** The architecture of a fixture whose config was changed; null removes a field as far as readers see. */
function read(name: string, changes: Record<string, unknown>) {
  const text = fs.readFileSync(path.join(hf(name), 'config.json'), 'utf8')
  const dir = path.join(folder, String(count++))
  fs.mkdirSync(dir)
  const config = { ...(JSON.parse(text) as object), ...changes }
  fs.writeFileSync(path.join(dir, 'config.json'), JSON.stringify(config))
  return readArchitecture(dir)
}

const router = (name: string, changes: Record<string, unknown>) =>
  read(name, changes).layers.at(-1)!.moe!.router

test.each(['deepseek_v2', 'deepseek_v3', 'gpt_oss'])('%s: every tensor is asked for', (name) => {
  expect(inspect(hf(name)).unusedTensors).toEqual([])
})

test('DeepSeek: heads, latents and dense layers', () => {
  const model = read('deepseek_v3', {})
  expect(model).toMatchObject({ heads: 4, kvHeads: 4, headDim: 32 })
  expect(model.latent).toEqual({
    qRank: 24,
    kvRank: 32,
    nopeDim: 16,
    ropeDim: 16,
    valueDim: 16,
    normEps: 1e-6,
    interleavedRope: true,
  })
  expect(read('deepseek_v3', { q_lora_rank: null, rope_interleave: false }).latent).toMatchObject({
    qRank: 0,
    interleavedRope: false,
  })
  const kinds = (changes: Record<string, unknown>) =>
    read('deepseek_v2', changes).layers.map(({ moe }) => (moe === undefined ? 'dense' : 'moe'))
  expect(kinds({})).toEqual(['dense', 'moe', 'moe'])
  expect(kinds({ first_k_dense_replace: null, moe_layer_freq: 2 })).toEqual(['moe', 'dense', 'moe'])
  expect(read('deepseek_v2', { n_shared_experts: null }).layers[1]!.moe!.shared).toBeUndefined()
  expect(read('deepseek_v2', {}).layers[1]!.moe!.shared!.width).toBe(96)
})

test('DeepSeek: routing', () => {
  expect(router('deepseek_v3', {})).toEqual({
    score: { act: 'sigmoid' },
    select: { kind: 'groupTopK', k: 3, G: 4, Kg: 2, reduce: 'sum2', fill: '-inf' },
    weigh: { norm: { p: 1, eps: ['add', 1e-20] }, scale: 2.5 },
  })
  // Kimi-K2 has one group of all experts
  expect(router('deepseek_v3', { n_group: 1, topk_group: 1, norm_topk_prob: false })).toMatchObject({
    select: { kind: 'topK', k: 3 },
    weigh: { scale: 2.5 },
  })
  expect(router('deepseek_v2', {})).toEqual({
    score: { act: 'softmax' },
    select: { kind: 'groupTopK', k: 3, G: 4, Kg: 2, reduce: 'max', fill: 0 },
    weigh: { scale: 1.5 },
  })
  expect(router('deepseek_v2', { topk_method: 'greedy', n_group: null, norm_topk_prob: true })).toEqual({
    score: { act: 'softmax' },
    select: { kind: 'topK', k: 3 },
    weigh: { norm: { p: 1, eps: ['add', 1e-20] } },
  })
})

test('DeepSeek: YaRN moves its factor from the rotation to the scores', () => {
  const scaling = {
    type: 'yarn',
    factor: 40,
    mscale: 1,
    mscale_all_dim: 1,
    beta_fast: 32,
    beta_slow: 1,
    original_max_position_embeddings: 4096,
  }
  const yarn = (changes: object) =>
    read('deepseek_v3', {
      rope_parameters: null,
      rope_theta: 10000,
      rope_scaling: { ...scaling, ...changes },
    }).rope
  const stretch = (m: number) => 0.1 * m * Math.log(40) + 1
  expect(yarn({}).scale).toBe(1)
  expect(yarn({}).softmaxScale).toBeCloseTo(stretch(1) ** 2, 12)
  expect(yarn({ mscale: 0.707 }).scale).toBeCloseTo(stretch(0.707) / stretch(1), 12)
  expect(yarn({ mscale: null, mscale_all_dim: null })).toMatchObject({ softmaxScale: 1 })
  expect(yarn({ mscale: null, mscale_all_dim: null }).scale).toBeCloseTo(stretch(1), 12)
  expect(yarn({}).invFreq).toHaveLength(8)
})

test('gpt-oss: windows, activation, and the field names of both generations', () => {
  const windows = (changes: Record<string, unknown>) =>
    read('gpt_oss', changes).layers.map((layer) => layer.window)
  expect(windows({})).toEqual([8, undefined, 8])
  expect(windows({ layer_types: null })).toEqual([8, undefined, 8])
  expect(windows({ layer_types: ['full_attention', 'full_attention', 'sliding_attention'] })).toEqual([
    undefined,
    undefined,
    8,
  ])
  const model = read('gpt_oss', {})
  expect(model).toMatchObject({ sinks: true, attentionBias: { qkv: true, o: true } })
  expect(model.glu).toEqual({ alpha: 1.702, limit: 7, beta: 1 })
  expect(read('gpt_oss', { swiglu_limit: 5 }).glu).toMatchObject({ limit: 5 })
  expect(router('gpt_oss', { num_experts_per_tok: null, experts_per_token: 2 }).select.k).toBe(2)
  const {
    rope_type: type,
    rope_theta: theta,
    ...rest
  } = (
    JSON.parse(fs.readFileSync(path.join(hf('gpt_oss'), 'config.json'), 'utf8')) as {
      rope_parameters: Record<string, unknown>
    }
  ).rope_parameters
  const old = { rope_parameters: null, rope_theta: theta, rope_scaling: { ...rest, type } }
  expect(read('gpt_oss', old).rope).toEqual(model.rope)
  expect(model.rope.scale).toBeCloseTo(0.1 * Math.log(32) + 1, 12)
})

const refusals: [string, Record<string, unknown>, string, RegExp][] = [
  ['deepseek_v3', { topk_method: 'greedy' }, 'UNSUPPORTED_ARCHITECTURE', /'greedy' with .* known: noaux_tc/],
  ['deepseek_v3', { scoring_func: 'softmax' }, 'UNSUPPORTED_ARCHITECTURE', /'softmax'/],
  ['deepseek_v2', { topk_method: 'noaux_tc' }, 'UNSUPPORTED_ARCHITECTURE', /known: greedy/],
  ['deepseek_v3', { qk_rope_head_dim: 15 }, 'INVALID_CONFIG', /qk_rope_head_dim .* even/],
  ['deepseek_v3', { kv_lora_rank: 0 }, 'INVALID_CONFIG', /kv_lora_rank/],
  ['deepseek_v3', { q_lora_rank: -1 }, 'INVALID_CONFIG', /q_lora_rank/],
  ['gpt_oss', { layer_types: 'sliding_attention' }, 'INVALID_CONFIG', /layer_types .* a list/],
]

test.each(refusals)('%s refuses %j', async (name, changes, code, message) => {
  await expectFailure(() => read(name, changes), `ERR_SMOE_${code}`, message)
})
