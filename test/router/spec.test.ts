import { configFor, planRouter } from '../../lib/router/config'
import type { RouterSpec } from '../../lib'
import { expectFailure } from '../helpers/errors'

const base: RouterSpec = { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 } }

test('DeepSeek-V3 in wire form', () => {
  const plan = planRouter({
    score: { act: 'sigmoid' },
    key: { modelBias: Array(16).fill(0.5) },
    select: { kind: 'groupTopK', k: 8, G: 4, Kg: 2, reduce: 'sum2', fill: '-inf' },
    weigh: { norm: { p: 1, eps: ['add', 1e-20] }, scale: 2.5 },
  })
  expect(configFor(plan, 16)).toEqual({
    experts: 16,
    score: 'sigmoid',
    modelBias: new Float32Array(16).fill(0.5),
    select: 'groupTopK',
    k: 8,
    groups: 4,
    groupsKept: 2,
    groupReduce: 'sum2',
    groupFill: 'negInf',
    source: 'score',
    post: 'none',
    normP: 1,
    normEps: 'add',
    eps: 1e-20,
    scale: 2.5,
    weightOnInput: false,
  })
})

test('a spec survives JSON', () => {
  expect(planRouter(JSON.parse(JSON.stringify(base)) as RouterSpec)).toEqual(planRouter(base))
})

const refusals: [string, unknown, RegExp][] = [
  ['nothing', undefined, /spec must be an object, got undefined/],
  ['no score', { select: base.select }, /spec.score must be an object/],
  [
    'another score',
    { ...base, score: { act: 'sqrtSoftplus' } },
    /spec.score.act must be one of 'identity', 'softmax', 'sigmoid'.*got 'sqrtSoftplus'/,
  ],
  [
    'a score shape',
    { ...base, score: { act: 'softmax', shape: ['softcap'] } },
    /spec.score.shape is not supported/,
  ],
  [
    'another selection',
    { ...base, select: { kind: 'topP', p: 0.4 } },
    /spec.select.kind must be one of 'topK', 'groupTopK'.*got 'topP'/,
  ],
  [
    'pruning',
    { ...base, select: { kind: 'topK', k: 2, prune: { kind: 'keepCount' } } },
    /spec.select.prune is not supported/,
  ],
  [
    'k of zero',
    { ...base, select: { kind: 'topK', k: 0 } },
    /spec.select.k must be an integer of at least 1, got 0/,
  ],
  ['fractional k', { ...base, select: { kind: 'topK', k: 1.5 } }, /spec.select.k/],
  ['affinity', { ...base, affinity: { kind: 'cosine' } }, /spec.affinity.kind .*got 'cosine'/],
  ['noise', { ...base, key: { noise: { seed: 1 } } }, /spec.key.noise is not supported/],
  ['bias of NaN', { ...base, key: { modelBias: [NaN] } }, /spec.key.modelBias must be finite numbers/],
  ['capacity', { ...base, capacity: { rule: 1 } }, /spec.capacity is not supported/],
  ['a map', { ...base, map: { merge: [1] } }, /spec.map is not supported/],
  ['compat', { ...base, compat: { scoreBf16: true } }, /spec.compat is not supported/],
  ['a misspelt field', { ...base, weights: {}, scoer: { act: 'softmax' } }, /spec.scoer is not supported/],
  ['null experts', { ...base, weigh: { nullRule: 'redistribute' } }, /spec.weigh.nullRule .*'keep'/],
  ['norm of 0', { ...base, weigh: { norm: { p: 0 } } }, /spec.weigh.norm.p must be above 0/],
  ['unknown eps', { ...base, weigh: { norm: { p: 1, eps: ['plus', 1] } } }, /eps\[0\] must be one of/],
  ['negative eps', { ...base, weigh: { norm: { p: 1, eps: ['add', -1] } } }, /eps\[1\]/],
  [
    'groups kept above groups',
    { ...base, select: { kind: 'groupTopK', k: 1, G: 2, Kg: 3, reduce: 'max', fill: 0 } },
    /spec.select.Kg must be at most G \(2\), got 3/,
  ],
  [
    'fill',
    { ...base, select: { kind: 'groupTopK', k: 1, G: 2, Kg: 1, reduce: 'max', fill: 1 } },
    /spec.select.fill/,
  ],
]
test.each(refusals)('refuses %s', async (_, spec, message) => {
  await expectFailure(() => planRouter(spec as RouterSpec), 'ERR_SMOE_INVALID_SPEC', message)
})

test('what depends on the number of experts', async () => {
  const check = (spec: RouterSpec, experts: number, message: RegExp) =>
    expectFailure(() => configFor(planRouter(spec), experts), 'ERR_SMOE_INVALID_SPEC', message)
  await check(base, 1, /k must be at most the 1 experts, got 2/)
  await check({ ...base, key: { modelBias: [1, 2] } }, 3, /one value per expert \(3\), got 2/)
  const group = (more: object) =>
    ({
      ...base,
      select: { kind: 'groupTopK', k: 2, G: 4, Kg: 2, reduce: 'sum2', fill: '-inf', ...more },
    }) as RouterSpec
  await check(group({}), 6, /G must divide the 6 experts, got 4/)
  await check(group({}), 4, /'sum2' needs groups of at least 2 experts, got 1/)
  await check(group({ k: 5 }), 8, /at most the 4 experts of the groups kept, got 5/)
})
