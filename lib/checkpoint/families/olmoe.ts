import type { Family } from '../architecture'
import { fusedNames, layerPrefix, projections, softmaxTopK } from './names'

/** OLMoE: q and k normed over all heads together, optional clipping of q, k and v, weights that do not sum to 1. */
export const olmoe: Family = {
  modelType: 'olmoe',
  read(config) {
    const experts = config.size(['num_experts', 'num_local_experts'])
    const width = config.size('intermediate_size')
    const router = softmaxTopK(config.size('num_experts_per_tok'), config.boolean('norm_topk_prob', false))
    const bias = config.boolean('attention_bias', false)
    const clip = config.nonNegative('clip_qkv', 0)
    return {
      defaultTheta: 10000,
      defaultNormEps: 1e-5,
      qkNorm: 'full',
      attentionBias: { qkv: bias, o: bias },
      ...(clip > 0 ? { clipQkv: clip } : {}),
      layer(index) {
        const prefix = layerPrefix(index)
        const moe = {
          experts,
          width,
          router,
          routerWeight: [`${prefix}mlp.gate.weight`],
          expert: (e: number) => projections(`${prefix}mlp.experts.${e}.`, width),
          fused: fusedNames(prefix),
        }
        return { moe }
      },
    }
  },
}
