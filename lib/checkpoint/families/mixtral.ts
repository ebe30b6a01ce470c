import type { Family } from '../architecture'
import { fusedNames, layerPrefix, softmaxTopK } from './names'

/** Mixtral: softmax over all experts, the k largest, always divided by their sum; w1 gate, w3 up, w2 down. */
export const mixtral: Family = {
  modelType: 'mixtral',
  read(config) {
    const experts = config.size(['num_local_experts', 'num_experts'])
    const width = config.size('intermediate_size')
    const router = softmaxTopK(config.size('num_experts_per_tok'), true)
    const window = config.count('sliding_window', 0)
    return {
      defaultTheta: 1e6,
      defaultNormEps: 1e-5,
      qkNorm: 'none',
      attentionBias: { qkv: false, o: false },
      layer(index) {
        const prefix = layerPrefix(index)
        const block = `${prefix}block_sparse_moe.`
        const moe = {
          experts,
          width,
          router,
          routerWeight: [`${block}gate.weight`, `${prefix}mlp.gate.weight`],
          expert: (e: number) => ({
            gate: `${block}experts.${e}.w1.weight`,
            up: `${block}experts.${e}.w3.weight`,
            down: `${block}experts.${e}.w2.weight`,
            width,
          }),
          fused: fusedNames(prefix),
        }
        return window > 0 ? { moe, window } : { moe }
      },
    }
  },
}
