import {
  type Activation,
  type ExpertWeights,
  type MoeLayerCreateOptions,
  type RouterSpec,
  Tensor,
} from '../../lib'
import { random, randomArray } from './numbers'
import { routeOracle } from './oracle'

export interface LayerShape {
  experts: number
  hidden: number
  widths: number[]
  spec: RouterSpec
  activation: Activation
  dtype: 'f32' | 'bf16' | 'f16'
  glu: boolean
  biases: boolean
  shared: boolean
  sharedGate: boolean
  seed: number
}

export const plainShape: LayerShape = {
  experts: 4,
  hidden: 24,
  widths: [20, 20, 20, 20],
  spec: { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 }, weigh: { norm: { p: 1 } } },
  activation: 'silu',
  dtype: 'f32',
  glu: true,
  biases: false,
  shared: false,
  sharedGate: false,
  seed: 1,
}

/** A f32 tensor of numbers around 0.2 in size: what quantized layers are made of. */
export const values = (sizes: number[], seed: number): Tensor =>
  Tensor.from(
    randomArray(
      sizes.reduce((a, b) => a * b, 1),
      random(seed),
      0.2,
    ),
    sizes,
    'f32',
  )

/** The matrices of expert `i`, made of values(). */
export const expertOfValues = (i: number, width: number, hidden: number) => ({
  gate: values([width, hidden], 10 + i),
  up: values([width, hidden], 20 + i),
  down: values([hidden, width], 30 + i),
})

/** A layer of random weights, scaled so that outputs stay of order 1. */
export function randomLayer(shape: LayerShape): MoeLayerCreateOptions {
  const next = random(shape.seed)
  const { hidden, dtype, glu, biases } = shape
  const make = (dims: number[], scale: number) =>
    Tensor.from(
      Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => next() * scale),
      dims,
      dtype,
    )
  const expert = (width: number): ExpertWeights => ({
    ...(glu ? { gate: make([width, hidden], 0.6) } : {}),
    up: make([width, hidden], 0.6),
    down: make([hidden, width], 0.6),
    ...(biases && glu ? { gateBias: make([width], 0.5) } : {}),
    ...(biases ? { upBias: make([width], 0.5), downBias: make([hidden], 0.5) } : {}),
  })
  return {
    router: shape.spec,
    routerWeight: make([shape.experts, hidden], 1),
    experts: shape.widths.map(expert),
    activation: shape.activation,
    ...(shape.shared ? { shared: expert(shape.widths[0]! + 3) } : {}),
    ...(shape.shared && shape.sharedGate ? { sharedGate: make([1, hidden], 1) } : {}),
  }
}

const activations: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  gelu_erf: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  identity: (x) => x,
}

/** erf by its Maclaurin series, summed until terms vanish: good to 1e-12 for the small arguments of these tests. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 && n < 200; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

function linear(weight: Tensor, x: readonly number[], bias?: Tensor): number[] {
  const w = weight.toF32Array()
  const b = bias?.toF32Array()
  return Array.from({ length: weight.shape[0]! }, (_, row) => {
    let sum = b?.[row] ?? 0
    for (let i = 0; i < x.length; i++) sum += w[row * x.length + i]! * x[i]!
    return sum
  })
}

function feedForward(expert: ExpertWeights, activation: Activation, x: readonly number[]): number[] {
  const act = activations[activation]
  const up = linear(expert.up, x, expert.upBias)
  const gate = expert.gate === undefined ? undefined : linear(expert.gate, x, expert.gateBias)
  const units = up.map((u, i) => (gate === undefined ? act(u) : act(gate[i]!) * u))
  return linear(expert.down, units, expert.downBias)
}

/** The MoE update of one token in double, and how close the closest routing decision was. */
export function layerOracle(
  layer: MoeLayerCreateOptions,
  x: readonly number[],
): { y: number[]; margin: number } {
  const { ids, weights, margin } = routeOracle(layer.router, linear(layer.routerWeight, x, layer.routerBias))
  const activation = layer.activation ?? 'silu'
  const onInput = layer.router.weigh?.point === 'w_in'
  const y = x.map(() => 0)
  ids.forEach((e, j) => {
    const input = onInput ? x.map((value) => value * weights[j]!) : x
    const factor = onInput ? 1 : weights[j]!
    feedForward(layer.experts[e]!, activation, input).forEach((value, i) => (y[i]! += factor * value))
  })
  if (layer.shared !== undefined) {
    const gate = layer.sharedGate === undefined ? 1 : 1 / (1 + Math.exp(-linear(layer.sharedGate, x)[0]!))
    feedForward(layer.shared, activation, x).forEach((value, i) => (y[i]! += gate * value))
  }
  return { y, margin }
}
