import type { RouterSpec, Weigh } from '../../lib'

/** What the oracle makes of one token; `margin` is the smallest relative gap that decided a comparison. */
export interface OracleRouting {
  ids: number[]
  weights: number[]
  margin: number
}

const largest = 3.4028234663852886e38

/** Routes one token as the wire form says, in double and without shortcuts. */
export function routeOracle(spec: RouterSpec, logits: readonly number[]): OracleRouting {
  const clean = logits.map((l) => (Number.isNaN(l) ? -Infinity : Math.min(l, largest)))
  const scores = activate(clean, spec.score.act)
  const bias = spec.key?.modelBias
  let keys = scores.map((s, e) => (clean[e] === -Infinity ? -Infinity : s + (bias?.[e] ?? 0)))
  let margin = Infinity
  const note = (sorted: number[]) => {
    for (let i = 1; i < sorted.length; i++) {
      const gap = Math.abs(sorted[i - 1]! - sorted[i]!)
      if (gap > 0) margin = Math.min(margin, gap / Math.max(Math.abs(sorted[i - 1]!), Math.abs(sorted[i]!)))
    }
  }
  const { select } = spec
  if (select.kind === 'groupTopK') {
    const size = keys.length / select.G
    const best = Array.from({ length: select.G }, (_, g) => {
      const sorted = keys.slice(g * size, (g + 1) * size).sort((a, b) => b - a)
      return select.reduce === 'max' ? sorted[0]! : sorted[0]! + sorted[1]!
    })
    const order = best.map((_, g) => g).sort((a, b) => best[b]! - best[a]! || a - b)
    note(order.map((g) => best[g]!))
    const kept = new Set(order.slice(0, select.Kg))
    const fill = select.fill === 0 ? 0 : -Infinity
    keys = keys.map((key, e) => (kept.has(Math.floor(e / size)) || clean[e] === -Infinity ? key : fill))
  }
  const order = keys.map((_, e) => e).sort((a, b) => keys[b]! - keys[a]! || a - b)
  note(order.map((e) => keys[e]!))
  const ids = order.filter((e) => keys[e]! > -Infinity).slice(0, select.k)
  const source = (e: number) => (spec.weigh?.source === 'logit' ? clean[e]! : scores[e]!)
  return { ids, weights: weigh(ids.map(source), spec.weigh ?? {}), margin }
}

function activate(values: readonly number[], act: string): number[] {
  if (act === 'identity') return [...values]
  if (act === 'sigmoid') return values.map((v) => 1 / (1 + Math.exp(-v)))
  const top = Math.max(...values)
  const exps = values.map((v) => Math.exp(v - top))
  const sum = exps.reduce((a, b) => a + b, 0)
  return exps.map((v) => v / sum)
}

function weigh(selected: number[], rule: Weigh): number[] {
  let weights = rule.post === undefined || rule.post === 'none' ? selected : activate(selected, rule.post)
  if (rule.norm) {
    const { p = 1, eps = ['none'] } = rule.norm
    let norm = 0
    if (p === 1) norm = weights.reduce((a, b) => a + b, 0)
    else norm = weights.reduce((a, b) => a + Math.abs(b) ** p, 0) ** (1 / p)
    if (eps[0] === 'add') norm += eps[1]
    if (eps[0] === 'clampMin') norm = Math.max(norm, eps[1])
    if (eps[0] === 'zeroSafe' && !(norm > 0)) norm = 1
    weights = weights.map((w) => w / norm)
  }
  return weights.map((w) => w * (rule.scale ?? 1))
}
