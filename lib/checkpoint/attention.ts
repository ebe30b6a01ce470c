import type { NativeAttention, NativeDecoderLayer, NativeLatentAttention } from '../../binding'
import type { Architecture, LatentPlan } from './architecture'
import type { Weights } from './weights'

/** The attention of one decoder layer, of either kind. */
export function describeAttention(
  architecture: Architecture,
  index: number,
  weights: Weights,
): Pick<NativeDecoderLayer, 'attention' | 'latentAttention'> {
  const { latent } = architecture
  return latent === undefined
    ? { attention: ordinary(architecture, index, weights) }
    : { latentAttention: latentAttention(architecture, latent, index, weights) }
}

function ordinary(architecture: Architecture, index: number, weights: Weights): NativeAttention {
  const { hidden, heads, kvHeads, headDim, rope, qkNorm, attentionBias } = architecture
  const { prefix, window } = architecture.layers[index]!
  const name = (part: string) => `${prefix}self_attn.${part}`
  const wide = heads * headDim
  const narrow = kvHeads * headDim
  const result: NativeAttention = {
    heads,
    kvHeads,
    headDim,
    qkNorm,
    qkNormEps: architecture.normEps,
    scale: headDim ** -0.5,
    invFreq: rope.invFreq,
    q: weights.matrix(name('q_proj.weight'), [wide, hidden]),
    k: weights.matrix(name('k_proj.weight'), [narrow, hidden]),
    v: weights.matrix(name('v_proj.weight'), [narrow, hidden]),
    o: weights.matrix(name('o_proj.weight'), [hidden, wide]),
  }
  if (rope.scale !== 1) result.ropeScale = rope.scale
  if (architecture.clipQkv !== undefined) result.clipQkv = architecture.clipQkv
  if (window !== undefined) result.window = window
  if (attentionBias.qkv) {
    result.qBias = weights.plain(name('q_proj.bias'), [wide])
    result.kBias = weights.plain(name('k_proj.bias'), [narrow])
    result.vBias = weights.plain(name('v_proj.bias'), [narrow])
  }
  if (attentionBias.o) result.oBias = weights.plain(name('o_proj.bias'), [hidden])
  if (architecture.sinks) result.sinks = weights.plain(name('sinks'), [heads])
  if (qkNorm !== 'none') {
    result.qNorm = weights.plain(name('q_norm.weight'), [qkNorm === 'full' ? wide : headDim])
    result.kNorm = weights.plain(name('k_norm.weight'), [qkNorm === 'full' ? narrow : headDim])
  }
  return result
}

function latentAttention(
  architecture: Architecture,
  latent: LatentPlan,
  index: number,
  weights: Weights,
): NativeLatentAttention {
  const { hidden, heads, headDim, rope, attentionBias } = architecture
  const { qRank, kvRank, nopeDim, ropeDim, valueDim } = latent
  const name = (part: string) => `${architecture.layers[index]!.prefix}self_attn.${part}`
  const result: NativeLatentAttention = {
    heads,
    qRank,
    kvRank,
    nopeDim,
    ropeDim,
    valueDim,
    normEps: latent.normEps,
    interleavedRope: latent.interleavedRope,
    scale: headDim ** -0.5 * rope.softmaxScale,
    invFreq: rope.invFreq,
    qB: weights.matrix(name(qRank > 0 ? 'q_b_proj.weight' : 'q_proj.weight'), [
      heads * headDim,
      qRank > 0 ? qRank : hidden,
    ]),
    kvA: weights.matrix(name('kv_a_proj_with_mqa.weight'), [kvRank + ropeDim, hidden]),
    kvNorm: weights.plain(name('kv_a_layernorm.weight'), [kvRank]),
    kvB: weights.matrix(name('kv_b_proj.weight'), [heads * (nopeDim + valueDim), kvRank]),
    o: weights.matrix(name('o_proj.weight'), [hidden, heads * valueDim]),
  }
  if (rope.scale !== 1) result.ropeScale = rope.scale
  if (qRank > 0) {
    result.qA = weights.matrix(name('q_a_proj.weight'), [qRank, hidden])
    result.qNorm = weights.plain(name('q_a_layernorm.weight'), [qRank])
    if (attentionBias.qkv) result.qABias = weights.plain(name('q_a_proj.bias'), [qRank])
  }
  if (attentionBias.qkv) {
    result.kvABias = weights.plain(name('kv_a_proj_with_mqa.bias'), [kvRank + ropeDim])
  }
  if (attentionBias.o) result.oBias = weights.plain(name('o_proj.bias'), [hidden])
  return result
}
