import type { RouterSpec, TopKSelect, GroupTopKSelect } from '../../router/spec'
import type { Family, FamilyPlan, LatentPlan } from '../architecture'
import { type ConfigReader, unsupported } from '../config'
import { fusedNames, layerPrefix, projections } from './names'

/**
 * DeepSeek-V3: latent attention; sigmoid scores chosen by score plus a correction bias, among the best groups, and
 * weighted without it; shared experts beside them, which routed_scaling_factor leaves alone. The layers that only
 * multi-token prediction uses are not read.
 */
export const deepseekV3: Family = {
  modelType: 'deepseek_v3',
  read(config) {
    const method = config.string('topk_method', 'noaux_tc')
    const scoring = config.string('scoring_func', 'sigmoid')
    if (method !== 'noaux_tc' || scoring !== 'sigmoid') {
      throw unsupported(
        `topk_method '${method}' with scoring_func '${scoring}' in ${config.file} is not supported for ` +
          `deepseek_v3; known: noaux_tc with sigmoid`,
      )
    }
    const normalise = config.boolean('norm_topk_prob', true)
    const router: RouterSpec = {
      score: { act: 'sigmoid' },
      select: select(config, config.size('n_group', 8), config.size('topk_group', 4), 'sum2'),
      weigh: {
        ...(normalise ? { norm: { p: 1, eps: ['add', 1e-20] } } : {}),
        scale: config.number('routed_scaling_factor', 2.5),
      },
    }
    return plan(config, router, { selectionBias: true })
  },
}

/**
 * DeepSeek-V2: latent attention; softmax scores, chosen overall or among the groups with the best single expert.
 * As the authors' code has it, weights are either divided by their sum or multiplied by routed_scaling_factor;
 * transformers 5 always multiplies, which is the same for the released models (they do not normalise).
 */
export const deepseekV2: Family = {
  modelType: 'deepseek_v2',
  read(config) {
    const method = config.string('topk_method', 'greedy')
    if (method !== 'greedy' && method !== 'group_limited_greedy') {
      throw unsupported(
        `topk_method '${method}' in ${config.file} is not supported for deepseek_v2; known: greedy, ` +
          `group_limited_greedy`,
      )
    }
    const grouped = method === 'group_limited_greedy'
    const normalise = config.boolean('norm_topk_prob', false) && config.size('num_experts_per_tok') > 1
    const router: RouterSpec = {
      score: { act: 'softmax' },
      select: grouped
        ? select(config, config.size('n_group'), config.size('topk_group'), 'max')
        : select(config, 1, 1, 'max'),
      weigh: normalise
        ? { norm: { p: 1, eps: ['add', 1e-20] } }
        : { scale: config.number('routed_scaling_factor', 1) },
    }
    return plan(config, router, { selectionBias: false })
  },
}

/** One group of all experts is no group: V3 with n_group 1 (Kimi-K2) has no pairs to look at. */
function select(
  config: ConfigReader,
  groups: number,
  kept: number,
  reduce: 'max' | 'sum2',
): TopKSelect | GroupTopKSelect {
  const k = config.size('num_experts_per_tok')
  if (groups === 1) return { kind: 'topK', k }
  return { kind: 'groupTopK', k, G: groups, Kg: kept, reduce, fill: reduce === 'max' ? 0 : '-inf' }
}

function plan(
  config: ConfigReader,
  router: RouterSpec,
  { selectionBias }: { selectionBias: boolean },
): FamilyPlan {
  const experts = config.size(['n_routed_experts', 'num_local_experts', 'num_experts'])
  const width = config.size('moe_intermediate_size')
  const shared = config.count('n_shared_experts', 0)
  const denseLayers = config.count('first_k_dense_replace', 0)
  const frequency = config.size('moe_layer_freq', 1)
  const bias = config.boolean('attention_bias', false)
  return {
    defaultTheta: 10000,
    defaultNormEps: 1e-6,
    qkNorm: 'none',
    attentionBias: { qkv: bias, o: bias },
    latent: latentPlan(config),
    layer(index) {
      const prefix = layerPrefix(index)
      if (index < denseLayers || index % frequency !== 0) {
        return { dense: projections(`${prefix}mlp.`, config.size('intermediate_size')) }
      }
      return {
        moe: {
          experts,
          width,
          router,
          routerWeight: [`${prefix}mlp.gate.weight`],
          ...(selectionBias ? { selectionBias: `${prefix}mlp.gate.e_score_correction_bias` } : {}),
          expert: (e: number) => projections(`${prefix}mlp.experts.${e}.`, width),
          fused: fusedNames(prefix),
          ...(shared > 0 ? { shared: projections(`${prefix}mlp.shared_experts.`, shared * width) } : {}),
        },
      }
    },
  }
}

function latentPlan(config: ConfigReader): LatentPlan {
  return {
    qRank: config.count('q_lora_rank', 0),
    kvRank: config.size('kv_lora_rank'),
    nopeDim: config.size('qk_nope_head_dim'),
    ropeDim: config.size('qk_rope_head_dim'),
    valueDim: config.size('v_head_dim'),
    // The norms inside the attention have their class's epsilon in transformers, not rms_norm_eps.
    normEps: 1e-6,
    interleavedRope: config.boolean('rope_interleave', true),
  }
}
