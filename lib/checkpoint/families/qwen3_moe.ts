import type { Family } from '../architecture'
import { fusedNames, layerPrefix, projections, softmaxTopK } from './names'

/** Qwen3-MoE: RMS norm on each head's q and k, softmax routing, some layers may be dense. */
export const qwen3Moe: Family = {
  modelType: 'qwen3_moe',
  read(config) {
    const bias = config.boolean('attention_bias', false)
    const experts = config.size(['num_experts', 'num_local_experts'])
    const width = config.size('moe_intermediate_size')
    // The class default is false although every release says true: only the file counts.
    const router = softmaxTopK(config.size('num_experts_per_tok'), config.boolean('norm_topk_prob', false))
    const denseLayers = config.counts('mlp_only_layers', [])
    const sparseStep = config.size('decoder_sparse_step', 1)
    // Unlike Qwen2-MoE, a window holds for all layers: max_window_layers is not read.
    const window = config.boolean('use_sliding_window', false) ? config.count('sliding_window', 0) : 0
    return {
      defaultTheta: 10000,
      defaultNormEps: 1e-6,
      qkNorm: 'per_head',
      attentionBias: { qkv: bias, o: bias },
      layer(index) {
        const prefix = layerPrefix(index)
        const common = window > 0 ? { window } : {}
        if (denseLayers.includes(index) || (index + 1) % sparseStep !== 0) {
          return { ...common, dense: projections(`${prefix}mlp.`, config.size('intermediate_size')) }
        }
        const moe = {
          experts,
          width,
          router,
          routerWeight: [`${prefix}mlp.gate.weight`],
          expert: (e: number) => projections(`${prefix}mlp.experts.${e}.`, width),
          fused: fusedNames(prefix),
        }
        return { ...common, moe }
      },
    }
  },
}
