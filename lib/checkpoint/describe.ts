import type {
  ActivationName,
  NativeAttention,
  NativeDecoderHead,
  NativeDecoderLayer,
  NativeExpert,
  NativeMoe,
  NativeNorm,
} from '../../binding'
import { parseMomentumSpec } from '../momentum/spec'
import { configFor, planRouter } from '../router/config'
import type { Architecture, FeedForwardNames, MoePlan } from './architecture'
import type { Checkpoint } from './checkpoint'
import { ConfigReader, readConfig, unsupported } from './config'
import { layerPrefix } from './families/names'
import { readJson } from './file_source'
import { readScheme } from './quantized/scheme'
import { findFamily } from './registry'
import { readRope } from './rope'

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
  const quantization = readScheme(config)
  const hidden = config.size('hidden_size')
  const heads = config.size('num_attention_heads')
  const kvHeads = config.size('num_key_value_heads', heads)
  if (heads % kvHeads !== 0)
    throw config.fail('num_key_value_heads', `a divisor of the ${heads} heads`, kvHeads)
  const headDim = config.size('head_dim', Math.floor(hidden / heads))
  if (headDim % 2 !== 0 || headDim > maxHeadDim)
    throw config.fail('head_dim', `even and at most ${maxHeadDim}`, headDim)
  const maxPositions = config.size('max_position_embeddings')
  const plan = family.read(config)
  const count = config.size('num_hidden_layers')
  if (count > maxLayers) throw config.fail('num_hidden_layers', `at most ${maxLayers}`, count)
  const layers = Array.from({ length: count }, (_, i) => ({ prefix: layerPrefix(i), ...plan.layer(i) }))
  for (const layer of layers) if (layer.moe !== undefined) checkRouting(config, layer.moe)
  const architecture: Architecture = {
    modelType: family.modelType,
    vocab: config.size('vocab_size'),
    hidden,
    heads,
    kvHeads,
    headDim,
    maxPositions,
    normEps: config.number('rms_norm_eps', plan.defaultNormEps),
    activation: readActivation(config),
    rope: readRope(config, headDim, plan.defaultTheta, maxPositions),
    tied: config.boolean('tie_word_embeddings', false),
    qkNorm: plan.qkNorm,
    attentionBias: plan.attentionBias,
    layers,
    eos: readEos(dir, config),
  }
  if (quantization !== undefined) architecture.quantization = quantization
  if (plan.clipQkv !== undefined) architecture.clipQkv = plan.clipQkv
  const momentum = config.raw('momentum_smoe')
  if (momentum !== undefined) architecture.momentum = readMomentum(config, momentum, layers)
  return architecture
}

/** What a whole model needs besides its layers. */
export function describeHead(architecture: Architecture, checkpoint: Checkpoint): NativeDecoderHead {
  const { vocab, hidden, tied, momentum } = architecture
  const head: NativeDecoderHead = {
    vocab,
    hidden,
    embedding: checkpoint.source('model.embed_tokens.weight', [vocab, hidden]),
    finalNorm: norm(architecture, checkpoint, 'model.norm.weight'),
  }
  if (!tied) head.output = checkpoint.source('lm_head.weight', [vocab, hidden])
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
  const layer: NativeDecoderLayer = {
    attentionNorm: norm(architecture, checkpoint, `${plan.prefix}input_layernorm.weight`),
    ffnNorm: norm(architecture, checkpoint, `${plan.prefix}post_attention_layernorm.weight`),
    attention: attention(architecture, index, checkpoint),
  }
  if (plan.moe !== undefined) layer.moe = describeMoe(architecture, index, checkpoint)
  if (plan.dense !== undefined) {
    const dense = feedForward(checkpoint, plan.dense, architecture.hidden)
    layer.dense = { ...dense, activation: architecture.activation }
  }
  return layer
}

/** The MoE block of one decoder layer. */
export function describeMoe(architecture: Architecture, index: number, checkpoint: Checkpoint): NativeMoe {
  const plan = architecture.layers[index]!.moe!
  const { hidden } = architecture
  const routerName = plan.routerWeight.find((name) => checkpoint.has(name)) ?? plan.routerWeight[0]!
  const moe: NativeMoe = {
    hidden,
    activation: architecture.activation,
    router: configFor(planRouter(plan.router), plan.experts),
    routerWeight: checkpoint.source(routerName, [plan.experts, hidden]),
    experts: Array.from({ length: plan.experts }, (_, e) => expert(checkpoint, plan, e, hidden)),
  }
  if (plan.shared !== undefined) {
    moe.shared = feedForward(checkpoint, plan.shared, hidden)
    if (plan.shared.sigmoidGate !== undefined) {
      moe.sharedGate = checkpoint.source(plan.shared.sigmoidGate, [1, hidden])
    }
  }
  return moe
}

function expert(checkpoint: Checkpoint, plan: MoePlan, index: number, hidden: number): NativeExpert {
  const { fused, experts, width } = plan
  if (fused === undefined || !checkpoint.has(fused.gateUp)) {
    return feedForward(checkpoint, plan.expert(index), hidden)
  }
  const gateUp = [experts, 2 * width, hidden]
  const first = index * 2 * width * hidden
  const shape = [width, hidden]
  return {
    gate: checkpoint.part(fused.gateUp, gateUp, first, shape),
    up: checkpoint.part(fused.gateUp, gateUp, first + width * hidden, shape),
    down: checkpoint.part(fused.down, [experts, hidden, width], index * hidden * width, [hidden, width]),
  }
}

function feedForward(checkpoint: Checkpoint, names: FeedForwardNames, hidden: number): NativeExpert {
  return {
    gate: checkpoint.source(names.gate, [names.width, hidden]),
    up: checkpoint.source(names.up, [names.width, hidden]),
    down: checkpoint.source(names.down, [hidden, names.width]),
  }
}

function norm(architecture: Architecture, checkpoint: Checkpoint, name: string): NativeNorm {
  return { kind: 'rms', eps: architecture.normEps, weight: checkpoint.source(name, [architecture.hidden]) }
}

function attention(architecture: Architecture, index: number, checkpoint: Checkpoint): NativeAttention {
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
    q: checkpoint.source(name('q_proj.weight'), [wide, hidden]),
    k: checkpoint.source(name('k_proj.weight'), [narrow, hidden]),
    v: checkpoint.source(name('v_proj.weight'), [narrow, hidden]),
    o: checkpoint.source(name('o_proj.weight'), [hidden, wide]),
  }
  if (rope.scale !== 1) result.ropeScale = rope.scale
  if (architecture.clipQkv !== undefined) result.clipQkv = architecture.clipQkv
  if (window !== undefined) result.window = window
  if (attentionBias.qkv) {
    result.qBias = checkpoint.source(name('q_proj.bias'), [wide])
    result.kBias = checkpoint.source(name('k_proj.bias'), [narrow])
    result.vBias = checkpoint.source(name('v_proj.bias'), [narrow])
  }
  if (attentionBias.o) result.oBias = checkpoint.source(name('o_proj.bias'), [hidden])
  if (qkNorm !== 'none') {
    result.qNorm = checkpoint.source(name('q_norm.weight'), [qkNorm === 'full' ? wide : headDim])
    result.kNorm = checkpoint.source(name('k_norm.weight'), [qkNorm === 'full' ? narrow : headDim])
  }
  return result
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
  const spec = parseMomentumSpec(value, `momentum_smoe of ${config.file}`)
  const depth = layers.filter((layer) => layer.moe !== undefined).length
  for (const name of ['mu', 'gamma'] as const) {
    const list = spec[name]
    if (Array.isArray(list) && list.length !== depth) {
      throw config.fail(`momentum_smoe.${name}`, `one number or one per MoE layer (${depth})`, list)
    }
  }
  return spec
}

function readEos(dir: string, config: ConfigReader): number[] {
  const generation = readJson(dir, 'generation_config.json', 'ERR_SMOE_INVALID_CONFIG')
  const file = 'generation_config.json'
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
