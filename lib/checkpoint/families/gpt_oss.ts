import type { Family } from '../architecture'
import type { ConfigReader } from '../config'
import { layerPrefix, projections } from './names'

/**
 * gpt-oss: attention with sinks and biases, every other layer with a sliding window; a router with a bias on its
 * logits, softmax over the selected ones; experts with biases and a clamped, shifted SwiGLU. The authors take that
 * softmax in bf16; here it is f32, as in transformers run in f32.
 */
export const gptOss: Family = {
  modelType: 'gpt_oss',
  read(config) {
    const experts = config.size(['num_local_experts', 'num_experts'])
    const width = config.size('intermediate_size')
    const k = config.size(['num_experts_per_tok', 'experts_per_token'])
    const bias = config.boolean('attention_bias', true)
    const window = windows(config)
    return {
      defaultTheta: 150000,
      defaultNormEps: 1e-5,
      qkNorm: 'none',
      attentionBias: { qkv: bias, o: bias },
      sinks: true,
      glu: { alpha: 1.702, limit: config.positive('swiglu_limit', 7), beta: 1 },
      layer(index) {
        const mlp = `${layerPrefix(index)}mlp.`
        return {
          ...window(index),
          moe: {
            experts,
            width,
            router: {
              score: { act: 'identity' },
              select: { kind: 'topK', k },
              weigh: { source: 'logit', post: 'softmax' },
            },
            routerWeight: [`${mlp}router.weight`],
            routerBias: `${mlp}router.bias`,
            expert: (e: number) => projections(`${mlp}experts.${e}.`, width),
            fused: {
              layout: 'interleaved',
              gateUp: `${mlp}experts.gate_up_proj`,
              down: `${mlp}experts.down_proj`,
            },
          },
        }
      },
    }
  },
}

/** layer_types says which layers slide; without it every other one does, the first included. */
function windows(config: ConfigReader): (index: number) => { window?: number } {
  const size = config.count('sliding_window', 128)
  const types = config.raw('layer_types')
  if (types !== undefined && !Array.isArray(types)) throw config.fail('layer_types', 'a list', types)
  return (index) => {
    const slides = types === undefined ? index % 2 === 0 : (types as unknown[])[index] === 'sliding_attention'
    return size > 0 && slides ? { window: size } : {}
  }
}
