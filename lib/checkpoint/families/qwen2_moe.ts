import type { Family } from '../architecture'
import type { ConfigReader } from '../config'
import { fusedNames, layerPrefix, projections, softmaxTopK } from './names'

/** Qwen2-MoE: biases on q, k and v, softmax routing, a shared expert behind a sigmoid gate. */
export const qwen2Moe: Family = {
  modelType: 'qwen2_moe',
  read(config) {
    const experts = config.size(['num_experts', 'num_local_experts'])
    const width = config.size('moe_intermediate_size')
    const router = softmaxTopK(config.size('num_experts_per_tok'), config.boolean('norm_topk_prob', false))
    const denseLayers = config.counts('mlp_only_layers', [])
    const sparseStep = config.size('decoder_sparse_step', 1)
    const sharedWidth = config.size('shared_expert_intermediate_size')
    const window = windows(config)
    return {
      defaultTheta: 10000,
      defaultNormEps: 1e-6,
      qkNorm: 'none',
      attentionBias: { qkv: config.boolean('qkv_bias', true), o: false },
      layer(index) {
        const prefix = layerPrefix(index)
        if (denseLayers.includes(index) || (index + 1) % sparseStep !== 0) {
          return { ...window(index), dense: projections(`${prefix}mlp.`, config.size('intermediate_size')) }
        }
        const moe = {
          experts,
          width,
          router,
          routerWeight: [`${prefix}mlp.gate.weight`],
          expert: (e: number) => projections(`${prefix}mlp.experts.${e}.`, width),
          fused: fusedNames(prefix),
          shared: {
            ...projections(`${prefix}mlp.shared_expert.`, sharedWidth),
            sigmoidGate: `${prefix}mlp.shared_expert_gate.weight`,
          },
        }
        return { ...window(index), moe }
      },
    }
  },
}

/** layer_types says which layers slide; older files mean those from max_window_layers on. */
function windows(config: ConfigReader): (index: number) => { window?: number } {
  const size = config.boolean('use_sliding_window', false) ? config.count('sliding_window', 0) : 0
  const types = config.raw('layer_types')
  if (types !== undefined && !Array.isArray(types)) throw config.fail('layer_types', 'a list', types)
  const first = config.count('max_window_layers', 28)
  return (index) => {
    const slides = types === undefined ? index >= first : (types as unknown[])[index] === 'sliding_attention'
    return size > 0 && slides ? { window: size } : {}
  }
}
