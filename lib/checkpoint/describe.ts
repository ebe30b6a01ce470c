import path from 'node:path'
import type {
  ActivationName,
  NativeDecoderHead,
  NativeDecoderLayer,
  NativeMoe,
  NativeNorm,
} from '../../binding'
import { checkMomentumRanges } from '../momentum/ranges'
import { parseMomentumSpec } from '../momentum/spec'
import { configFor, planRouter } from '../router/config'
import type { Architecture, FamilyPlan, MoePlan } from './architecture'
import { describeAttention } from './attention'
import type { Checkpoint } from './checkpoint'
import { ConfigReader, readConfig, unsupported } from './config'
import { describeExpert, feedForward } from './experts'
import { layerPrefix } from './families/names'
import { readJson } from './file_source'
import { readQuantization } from './quantization'
import { findFamily } from './registry'
import { readRope } from './rope'
import { Weights } from './weights'

const activations: ReadonlyMap<string, ActivationName> = new Map([
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['gelu', 'gelu_erf'],
  ['gelu_pytorch_tanh', 'gelu_tanh'],
  ['gelu_new', 'gelu_tanh'],
  ['relu', 'relu'],
  ['relu2', 'relu2'],
])

/** Far above any real model; tables of these sizes are made before the tensors can prove the config right. */
const maxLayers = 4096
const maxHeadDim = 65536

/**
 * Reads config.json (and generation_config.json) of a checkpoint folder.
 * @throws SmoeError ERR_SMOE_FILE_NOT_FOUND, ERR_SMOE_INVALID_CONFIG, ERR_SMOE_UNSUPPORTED_ARCHITECTURE
 */
export function readArchitecture(dir: string): Architecture {
  const config = readConfig(dir)
  const family = findFamily(config)
  const quantization = readQuantization(config)
  const plan = family.read(config)
  const { heads, kvHeads, headDim, rotated } = readHeads(config, plan)
  const maxPositions = config.size('max_position_embeddings')
  const count = config.size('num_hidden_layers')
  if (count > maxLayers) throw config.fail('num_hidden_layers', `at most ${maxLayers}`, count)
  const layers = Array.from({ length: count }, (_, i) => ({ prefix: layerPrefix(i), ...plan.layer(i) }))
  for (const layer of layers) if (layer.moe !== undefined) checkRouting(config, layer.moe)
  if (quantization?.method === 'mxfp4' && !layers.some(({ moe }) => moe?.fused?.layout === 'interleaved')) {
    throw unsupported(`quant_method 'mxfp4' in ${config.file} is not supported for ${family.modelType}`)
  }
  const architecture: Architecture = {
    modelType: family.modelType,
    vocab: config.size('vocab_size'),
    hidden: config.size('hidden_size'),
    heads,
    kvHeads,
    headDim,
    maxPositions,
    normEps: config.nonNegative('rms_norm_eps', plan.defaultNormEps),
    activation: readActivation(config),
    rope: readRope(config, rotated, plan.defaultTheta, maxPositions),
    tied: config.boolean('tie_word_embeddings', false),
    qkNorm: plan.qkNorm,
    attentionBias: plan.attentionBias,
    sinks: plan.sinks ?? false,
    layers,
    eos: readEos(dir, config),
  }
  if (plan.clipQkv !== undefined) architecture.clipQkv = plan.clipQkv
  if (plan.latent !== undefined) architecture.latent = plan.latent
  if (plan.glu !== undefined) architecture.glu = plan.glu
  if (quantization !== undefined) architecture.quantization = quantization
  const momentum = config.raw('momentum_smoe')
  if (momentum !== undefined) architecture.momentum = readMomentum(config, momentum, layers)
  return architecture
}

/** Heads and their sizes; `rotated` dimensions of each are what rotary frequencies are made for. */
function readHeads(config: ConfigReader, { latent }: FamilyPlan) {
  const heads = config.size('num_attention_heads')
  const checkDim = (name: string, size: number) => {
    if (size % 2 !== 0 || size > maxHeadDim) throw config.fail(name, `even and at most ${maxHeadDim}`, size)
  }
  if (latent !== undefined) {
    checkDim('qk_rope_head_dim', latent.ropeDim)
    const headDim = latent.nopeDim + latent.ropeDim
    return { heads, kvHeads: heads, headDim, rotated: latent.ropeDim }
  }
  const kvHeads = config.size('num_key_value_heads', heads)
  if (heads % kvHeads !== 0)
    throw config.fail('num_key_value_heads', `a divisor of the ${heads} heads`, kvHeads)
  const headDim = config.size('head_dim', Math.floor(config.size('hidden_size') / heads))
  checkDim('head_dim', headDim)
  return { heads, kvHeads, headDim, rotated: headDim }
}

/** What a whole model needs besides its layers. */
export function describeHead(architecture: Architecture, checkpoint: Checkpoint): NativeDecoderHead {
  const { vocab, hidden, tied, momentum } = architecture
  const weights = new Weights(checkpoint, architecture.quantization)
  const head: NativeDecoderHead = {
    vocab,
    hidden,
    embedding: weights.matrix('model.embed_tokens.weight', [vocab, hidden]),
    finalNorm: norm(architecture, weights, 'model.norm.weight'),
  }
  if (!tied) head.output = weights.matrix('lm_head.weight', [vocab, hidden])
  if (momentum !== undefined) head.momentum = momentum
  return head
}

/** One decoder layer. */
export function describeLayer(
  architecture: Architecture,
  index: number,
  checkpoint: Checkpoint,
): NativeDecoderLayer {
  const plan = architecture.layers[index]!
  const weights = new Weights(checkpoint, architecture.quantization)
  const layer: NativeDecoderLayer = {
    attentionNorm: norm(architecture, weights, `${plan.prefix}input_layernorm.weight`),
    ffnNorm: norm(architecture, weights, `${plan.prefix}post_attention_layernorm.weight`),
    ...describeAttention(architecture, index, weights),
  }
  if (plan.moe !== undefined) layer.moe = describeMoe(architecture, index, checkpoint)
  if (plan.dense !== undefined) {
    const dense = feedForward(weights, plan.dense, architecture.hidden)
    layer.dense = { ...dense, activation: architecture.activation }
    if (architecture.glu !== undefined) layer.dense.glu = architecture.glu
  }
  return layer
}

/** The MoE block of one decoder layer. */
export function describeMoe(architecture: Architecture, index: number, checkpoint: Checkpoint): NativeMoe {
  const plan = architecture.layers[index]!.moe!
  const { hidden, glu } = architecture
  const { experts } = plan
  const weights = new Weights(checkpoint, architecture.quantization)
  const moe: NativeMoe = {
    hidden,
    activation: architecture.activation,
    router: configFor(planRouter(plan.router), experts),
    routerWeight: weights.matrix(weights.oneOf(plan.routerWeight), [experts, hidden]),
    experts: Array.from({ length: experts }, (_, e) => describeExpert(weights, plan, e, hidden)),
  }
  if (glu !== undefined) moe.glu = glu
  if (plan.routerBias !== undefined) moe.routerBias = weights.plain(plan.routerBias, [experts])
  if (plan.selectionBias !== undefined) moe.modelBias = weights.plain(plan.selectionBias, [experts])
  if (plan.shared !== undefined) {
    moe.shared = feedForward(weights, plan.shared, hidden)
    if (plan.shared.sigmoidGate !== undefined) {
      moe.sharedGate = weights.matrix(plan.shared.sigmoidGate, [1, hidden])
    }
  }
  return moe
}

function norm(architecture: Architecture, weights: Weights, name: string): NativeNorm {
  return { kind: 'rms', eps: architecture.normEps, weight: weights.plain(name, [architecture.hidden]) }
}

function readActivation(config: ConfigReader): ActivationName {
  const name = config.string('hidden_act', 'silu')
  const activation = activations.get(name)
  if (activation === undefined) {
    const known = [...activations.keys()].join(', ')
    throw unsupported(`hidden_act '${name}' in ${config.file} is not supported; known: ${known}`)
  }
  return activation
}

function checkRouting(config: ConfigReader, moe: MoePlan): void {
  if (moe.router.select.k > moe.experts) {
    throw config.fail('num_experts_per_tok', `at most the ${moe.experts} experts`, moe.router.select.k)
  }
}

function readMomentum(config: ConfigReader, value: unknown, layers: Architecture['layers']) {
  const name = `momentum_smoe of ${config.file}`
  const spec = parseMomentumSpec(value, name)
  const depth = layers.filter((layer) => layer.moe !== undefined).length
  for (const name of ['mu', 'gamma'] as const) {
    const list = spec[name]
    if (Array.isArray(list) && list.length !== depth) {
      throw config.fail(`momentum_smoe.${name}`, `one number or one per MoE layer (${depth})`, list)
    }
  }
  checkMomentumRanges(spec, depth, name)
  return spec
}

function readEos(dir: string, config: ConfigReader): number[] {
  const generation = readJson(dir, 'generation_config.json', 'ERR_SMOE_INVALID_CONFIG')
  const file = path.join(dir, 'generation_config.json')
  const readers = generation === undefined ? [config] : [new ConfigReader(generation, file), config]
  for (const reader of readers) {
    const value = reader.raw('eos_token_id')
    if (value === undefined) continue
    const ids = [value].flat()
    if (!ids.every((id) => Number.isSafeInteger(id) && (id as number) >= 0)) {
      throw reader.fail('eos_token_id', 'a token id or a list of them', value)
    }
    return ids as number[]
  }
  return []
}
