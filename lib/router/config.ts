import type { NativeRouterConfig } from '../../binding'
import { describe } from '../errors'
import { SpecReader, invalidSpec } from '../spec_reader'
import { arrayKind } from '../validate'
import type { RouterSpec } from './spec'

/** A checked RouterSpec, still without the number of experts. */
export type RouterPlan = Omit<NativeRouterConfig, 'experts'> & { affinity: 'linear' | 'external' | undefined }

/**
 * Checks a RouterSpec and flattens it to what the addon takes.
 * @throws SmoeError ERR_SMOE_INVALID_SPEC naming the field, what is supported and what came
 */
export function planRouter(spec: RouterSpec): RouterPlan {
  const top = new SpecReader('spec', spec)
  const affinity = readAffinity(top.get('affinity'))
  const score = new SpecReader('spec.score', top.get('score'))
  const plan: RouterPlan = {
    affinity,
    score: score.oneOf('act', ['identity', 'softmax', 'sigmoid']),
    ...readSelect(top.get('select')),
    ...readWeigh(top.get('weigh')),
  }
  score.finish()
  const modelBias = readKey(top.get('key'))
  if (modelBias !== undefined) plan.modelBias = modelBias
  top.get('capacity')
  if (spec.capacity !== undefined && spec.capacity !== null) {
    throw invalidSpec('spec.capacity is not supported in this version: it must be null or absent')
  }
  top.finish()
  return plan
}

/** The addon's configuration for `experts` experts; checks what depends on their number. */
export function configFor(plan: RouterPlan, experts: number): NativeRouterConfig {
  const { affinity: _, ...rest } = plan
  if (plan.k > experts)
    throw invalidSpec(`spec.select.k must be at most the ${experts} experts, got ${plan.k}`)
  if (plan.modelBias !== undefined && plan.modelBias.length !== experts) {
    throw invalidSpec(
      `spec.key.modelBias must have one value per expert (${experts}), got ${plan.modelBias.length}`,
    )
  }
  if (plan.select === 'groupTopK') checkGroups(plan, experts)
  return { experts, ...rest }
}

function checkGroups(plan: RouterPlan, experts: number): void {
  const groups = plan.groups!
  if (experts % groups !== 0)
    throw invalidSpec(`spec.select.G must divide the ${experts} experts, got ${groups}`)
  const size = experts / groups
  if (plan.groupReduce === 'sum2' && size < 2) {
    throw invalidSpec(`spec.select.reduce 'sum2' needs groups of at least 2 experts, got ${size}`)
  }
  if (plan.groupFill === 'negInf' && plan.k > size * plan.groupsKept!) {
    throw invalidSpec(
      `spec.select.k must be at most the ${size * plan.groupsKept!} experts of the groups kept, got ${plan.k}`,
    )
  }
}

function readAffinity(value: unknown): 'linear' | 'external' | undefined {
  if (value === undefined) return undefined
  const reader = new SpecReader('spec.affinity', value)
  const kind = reader.oneOf('kind', ['linear', 'external'])
  reader.finish()
  return kind
}

function readKey(value: unknown): Float32Array | undefined {
  if (value === undefined || value === null) return undefined
  const reader = new SpecReader('spec.key', value)
  const bias = reader.get('modelBias')
  reader.finish()
  if (bias === undefined || bias === null) return undefined
  const list = Array.isArray(bias) || arrayKind(bias) === 'Float32Array'
  const values = list ? Array.from(bias as ArrayLike<unknown>) : []
  if (!list || !values.every((item) => typeof item === 'number' && Number.isFinite(item))) {
    throw invalidSpec(`spec.key.modelBias must be finite numbers, one per expert, got ${describe(bias)}`)
  }
  return Float32Array.from(values as number[])
}

type SelectPlan = Pick<
  NativeRouterConfig,
  'select' | 'k' | 'groups' | 'groupsKept' | 'groupReduce' | 'groupFill'
>

function readSelect(value: unknown): SelectPlan {
  const reader = new SpecReader('spec.select', value)
  const select = reader.oneOf('kind', ['topK', 'groupTopK'])
  const plan: SelectPlan = { select, k: reader.integer('k', 1) }
  if (select === 'groupTopK') {
    plan.groups = reader.integer('G', 1)
    plan.groupsKept = reader.integer('Kg', 1)
    if (plan.groupsKept > plan.groups) {
      throw invalidSpec(`spec.select.Kg must be at most G (${plan.groups}), got ${plan.groupsKept}`)
    }
    plan.groupReduce = reader.oneOf('reduce', ['max', 'sum2'])
    const fill = reader.get('fill')
    if (fill !== '-inf' && fill !== 0) {
      throw invalidSpec(`spec.select.fill must be '-inf' or 0, got ${describe(fill)}`)
    }
    plan.groupFill = fill === 0 ? 'zero' : 'negInf'
  }
  reader.finish()
  return plan
}

type WeighPlan = Pick<
  NativeRouterConfig,
  'source' | 'post' | 'normP' | 'normEps' | 'eps' | 'scale' | 'weightOnInput'
>

function readWeigh(value: unknown): WeighPlan {
  const reader = new SpecReader('spec.weigh', value ?? {})
  reader.oneOf('nullRule', ['keep'], 'keep')
  const plan: WeighPlan = {
    source: reader.oneOf('source', ['score', 'logit'], 'score'),
    post: reader.oneOf('post', ['none', 'softmax', 'sigmoid'], 'none'),
    scale: reader.number('scale', 1),
    weightOnInput: reader.oneOf('point', ['w_out', 'w_in'], 'w_out') === 'w_in',
    ...readNorm(reader.get('norm')),
  }
  reader.finish()
  return plan
}

function readNorm(value: unknown): Pick<WeighPlan, 'normP' | 'normEps' | 'eps'> {
  if (value === undefined || value === null) return { normP: 0 }
  const reader = new SpecReader('spec.weigh.norm', value)
  const p = reader.number('p', 1)
  if (p <= 0) throw invalidSpec(`spec.weigh.norm.p must be above 0, got ${p}`)
  reader.oneOf('phase', ['before', 'after'], 'before')
  const rule = reader.get('eps') ?? ['none']
  reader.finish()
  if (!Array.isArray(rule))
    throw invalidSpec(`spec.weigh.norm.eps must be [rule, value], got ${describe(rule)}`)
  const [name, eps] = rule as unknown[]
  if (name === 'none' || name === 'zeroSafe') return { normP: p, normEps: name }
  if (name !== 'add' && name !== 'clampMin') {
    throw invalidSpec(
      `spec.weigh.norm.eps[0] must be one of 'none', 'add', 'clampMin', 'zeroSafe', got ${describe(name)}`,
    )
  }
  if (typeof eps !== 'number' || !Number.isFinite(eps) || eps < 0) {
    throw invalidSpec(`spec.weigh.norm.eps[1] must be a finite number of at least 0, got ${describe(eps)}`)
  }
  return { normP: p, normEps: name, eps }
}
