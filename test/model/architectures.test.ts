import path from 'node:path'
import { MoeLayer, MoeModel, Tensor } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { deviceIndex } from '../../lib/device'
import { loadDecoder } from '../../lib/model/load'
import { native } from '../../lib/native'
import { emulated, fewer, onCuda } from '../helpers/device'
import { relativeError } from '../helpers/numbers'
import { hf, quantized } from '../helpers/paths'
import { readReference } from '../helpers/safetensors'

/** Both sides accumulate in f32, in different orders, over two or three layers. */
const exact = 2e-4

interface Fixture {
  name: string
  dir: string
  /** what transformers loses by running in bf16; of the plain checkpoint, for quantized ones */
  bf16: number
  moeLayers: number[]
  /** the router in transformers' module paths, where its outputs were kept */
  router?: string
}

const fixtures: Fixture[] = [
  { name: 'deepseek_v2', dir: hf('deepseek_v2'), bf16: 3.1e-2, moeLayers: [1, 2], router: 'gate' },
  { name: 'deepseek_v3', dir: hf('deepseek_v3'), bf16: 4.0e-2, moeLayers: [1, 2], router: 'gate' },
  { name: 'gpt_oss', dir: hf('gpt_oss'), bf16: 1.1e-2, moeLayers: [0, 1, 2], router: 'router' },
  { name: 'deepseek_v3_fp8', dir: quantized('deepseek_v3_fp8'), bf16: 4.0e-2, moeLayers: [1] },
  { name: 'gpt_oss_mxfp4', dir: quantized('gpt_oss_mxfp4'), bf16: 1.1e-2, moeLayers: [0, 1] },
  { name: 'qwen3_moe_fp8', dir: quantized('qwen3_moe_fp8'), bf16: 2.0e-2, moeLayers: [0, 1] },
]

/** Weight of each expert of each token: transformers orders the selected as it likes. */
function byExpert(ids: ArrayLike<number>, weights: ArrayLike<number>, experts: number): Float32Array {
  const slots = 3
  const dense = new Float32Array((ids.length / slots) * experts)
  for (let i = 0; i < ids.length; i++) dense[Math.floor(i / slots) * experts + ids[i]!] = weights[i]!
  return dense
}

describe.each(fixtures)('$name', ({ dir, bf16, moeLayers, router }) => {
  const reference = readReference(path.join(dir, 'reference.safetensors'))
  const ids = reference.get('input_ids') as Int32Array
  const get = (key: string) => reference.get(key)!
  let model: MoeModel
  beforeAll(async () => {
    model = await MoeModel.load(dir, { precision: 'exact' })
  })
  afterAll(() => model.dispose())

  test('exact: logits, and every MoE layer inside and out', async () => {
    const { logits, layers } = await model.trace(ids)
    expect(relativeError(logits.data(), get('logits'))).toBeLessThan(exact)
    expect(layers.map(({ layer }) => layer)).toEqual(moeLayers)
    if (router === undefined) return
    for (const { layer, ...trace } of layers) {
      const key = `model.layers.${layer}`
      const gate = `${key}.mlp.${router}`
      expect(relativeError(trace.input.data(), get(`${key}.mlp.input`))).toBeLessThan(exact)
      expect(relativeError(trace.routerLogits.data(), get(`${gate}.output`))).toBeLessThan(exact)
      const found = byExpert(trace.ids.data(), trace.weights.data(), 8)
      const wanted = byExpert(get(`${gate}.output2`), get(`${gate}.output1`), 8)
      expect(relativeError(found, wanted)).toBeLessThan(exact)
      expect(relativeError(trace.output.data(), get(`${key}.mlp.output`))).toBeLessThan(exact)
      expect(relativeError(trace.residualOut.data(), get(`${key}.output`))).toBeLessThan(exact)
    }
  })

  test('exact: greedy decoding gives the reference tokens', async () => {
    const found: number[] = []
    const maxNewTokens = fewer(16, 3)
    for await (const { id } of model.generate(ids, { maxNewTokens, ignoreEos: true })) found.push(id)
    expect(found).toEqual(Array.from(get('greedy_ids')).slice(ids.length, ids.length + maxNewTokens))
  })

  test('fast: logits within what bf16 costs PyTorch', async () => {
    using fast = await MoeModel.load(dir)
    const { logits } = await fast.trace(ids)
    expect(relativeError(logits.data(), get('logits'))).toBeLessThan(bf16)
  })

  test.each(emulated ? ['fast' as const] : ['exact' as const, 'fast' as const])(
    '%s: decoding gives the bits of one pass',
    async (precision) => {
      const decoder = await loadDecoder(dir, readArchitecture(dir), {
        precision,
        device: deviceIndex('auto'),
      })
      // On a GPU calls of one kind agree with each other: here of fewer than eight tokens per expert, of eight experts and
      // three per token.
      const tokens = onCuda ? 21 : 24
      const whole = await decoder.forward(ids.subarray(0, tokens), undefined, 'all')
      const cache = new (native().KvCache)(decoder, 64)
      let position = 0
      // Past the window of 8 in pieces that end before, on and after it.
      for (const end of [1, 7, 8, 9, 17, tokens - 1, tokens]) {
        const part = await decoder.forward(ids.subarray(position, end), cache, 'all')
        const width = whole.length / tokens
        expect(part).toEqual(whole.subarray(position * width, end * width))
        position = end
      }
      cache.dispose()
      decoder.dispose()
    },
  )

  test('a layer alone gives what it gives inside the model', async () => {
    const { layers } = await model.trace(ids)
    const { layer: index, input, output } = layers[0]!
    using layer = await MoeLayer.load(dir, { layer: index, precision: 'exact' })
    expect((await layer.forward(input)).data()).toEqual(output.data())
  })
})

test('parameters of gated units: the layer of gpt-oss from its tensors', async () => {
  const one = (values: number[], shape: number[]) => Tensor.from(Float32Array.from(values), shape)
  const create = (glu?: object) =>
    MoeLayer.create({
      router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 1 } },
      routerWeight: one([0], [1, 1]),
      experts: [{ gate: one([1], [1, 1]), up: one([1], [1, 1]), down: one([1], [1, 1]) }],
      glu,
      precision: 'exact',
    })
  const unit = async (x: number, glu?: object) => {
    using layer = await create(glu)
    return (await layer.forward(one([x], [1, 1]))).data()[0]!
  }
  const oss = { alpha: 1.702, limit: 7, beta: 1 }
  for (const x of [-9, -1, 0, 0.5, 6, 9]) {
    const gate = Math.min(x, 7)
    const up = Math.max(-7, Math.min(x, 7))
    expect(await unit(x, oss)).toBeCloseTo(((up + 1) * gate) / (1 + Math.exp(-1.702 * gate)), 5)
  }
  expect(await unit(3, {})).toBe(await unit(3))
  await expect(create({ limit: 0 })).rejects.toMatchObject({ code: 'ERR_SMOE_INVALID_SPEC' })
  await expect(create({ alpha: NaN })).rejects.toMatchObject({ code: 'ERR_SMOE_INVALID_TYPE' })
  await expect(create(3 as unknown as object)).rejects.toMatchObject({ code: 'ERR_SMOE_INVALID_TYPE' })
})
