import fs from 'node:fs'
import path from 'node:path'
import { MoeModel } from '../../lib'
import { readArchitecture } from '../../lib/checkpoint/describe'
import { loadDecoder } from '../../lib/model/load'
import { native } from '../../lib/native'
import { deviceIndex } from '../../lib/device'
import { emulated, fewer } from '../helpers/device'
import { relativeError } from '../helpers/numbers'
import { families, hf, momentumModel, plainModel } from '../helpers/paths'
import { readReference } from '../helpers/safetensors'

/** Both sides accumulate in f32, in different orders, over three to six layers. */
const exact = 2e-4
/** What PyTorch itself loses by running these checkpoints in bf16 (random weights: routing flips easily). */
const bf16 = { qwen3_moe: 2.0e-2, qwen2_moe: 1.0e-2, mixtral: 1.1e-1, olmoe: 3.5e-2 }

async function greedy(model: MoeModel, prompt: Int32Array, count: number): Promise<number[]> {
  const ids: number[] = []
  for await (const { id } of model.generate(prompt, { maxNewTokens: count, ignoreEos: true })) ids.push(id)
  return ids
}

describe.each(families)('%s', (name) => {
  const reference = readReference(path.join(hf(name), 'reference.safetensors'))
  const ids = reference.get('input_ids') as Int32Array
  const get = (key: string) => reference.get(key)!
  let model: MoeModel
  beforeAll(async () => {
    model = await MoeModel.load(hf(name), { precision: 'exact' })
  })
  afterAll(() => model.dispose())

  test('exact: logits, and every MoE layer inside and out', async () => {
    const { logits, layers } = await model.trace(ids)
    expect(relativeError(logits.data(), get('logits'))).toBeLessThan(exact)
    expect((await model.forward(ids)).data()).toEqual(logits.data())
    expect(layers.map(({ layer }) => layer)).toEqual(name === 'qwen3_moe' ? [1, 2] : [0, 1, 2])
    for (const { layer, ...trace } of layers) {
      const key = `model.layers.${layer}`
      expect(relativeError(trace.input.data(), get(`${key}.mlp.input`))).toBeLessThan(exact)
      expect(relativeError(trace.routerLogits.data(), get(`${key}.mlp.gate.output`))).toBeLessThan(exact)
      expect(relativeError(trace.weights.data(), get(`${key}.mlp.gate.output1`))).toBeLessThan(exact)
      expect(trace.ids.data()).toEqual(get(`${key}.mlp.gate.output2`))
      expect(relativeError(trace.output.data(), get(`${key}.mlp.output`))).toBeLessThan(exact)
      expect(relativeError(trace.residualOut.data(), get(`${key}.output`))).toBeLessThan(exact)
      expect(trace.momentumOut).toBeUndefined()
    }
  })

  test('exact: greedy decoding gives the reference tokens', async () => {
    const expected = Array.from(get('greedy_ids'))
    const count = fewer(16, 3)
    expect(await greedy(model, ids, count)).toEqual(expected.slice(ids.length, ids.length + count))
  })

  test('fast: logits within what bf16 costs PyTorch', async () => {
    const fast = await MoeModel.load(hf(name))
    expect(fast.precision).toBe('fast')
    const { logits } = await fast.trace(ids)
    expect(relativeError(logits.data(), get('logits'))).toBeLessThan(bf16[name])
    fast.dispose()
  })
})

describe.each([
  ['smoe-wikitext', plainModel],
  ['momentum-wikitext', momentumModel],
])('%s', (name, dir) => {
  const reference = readReference(path.join(dir, 'reference.safetensors'))
  const { prompt, greedy_ids: greedyIds } = JSON.parse(
    fs.readFileSync(path.join(dir, 'reference.json'), 'utf8'),
  ) as { prompt: string; greedy_ids: number[] }
  const ids = reference.get('input_ids') as Int32Array
  let model: MoeModel
  beforeAll(async () => {
    model = await MoeModel.load(dir, { precision: 'exact' })
  })
  afterAll(() => model.dispose())

  test('exact: logits, every MoE layer, and the momentum it carries', async () => {
    const { logits, layers } = await model.trace(ids)
    expect(relativeError(logits.data(), reference.get('logits')!)).toBeLessThan(exact)
    expect(layers).toHaveLength(6)
    for (const { layer, ...trace } of layers) {
      const check = (found: Float32Array, key: string) =>
        expect(relativeError(found, reference.get(`layers.${layer}.${key}`)!)).toBeLessThan(exact)
      check(trace.input.data(), 'moe_input')
      check(trace.residualIn.data(), 'residual_in')
      check(trace.routerLogits.data(), 'router_logits')
      check(trace.output.data(), 'moe_output')
      check(trace.residualOut.data(), 'residual_out')
      if (name === 'momentum-wikitext') check(trace.momentumOut!.data(), 'momentum_out')
      else expect(trace.momentumOut).toBeUndefined()
    }
  })

  test.each(['exact', 'fast'] as const)('%s: the prompt goes on as in the reference', async (precision) => {
    const other = await MoeModel.load(dir, { precision })
    let text = ''
    const found: number[] = []
    const count = fewer(greedyIds.length - ids.length, 4)
    for await (const token of other.generate(prompt, { maxNewTokens: count })) {
      found.push(token.id)
      text += token.text
    }
    expect(found).toEqual(greedyIds.slice(ids.length, ids.length + count))
    expect(text).toBe(other.decode(found))
    other.dispose()
  })
})

const precisions = emulated ? (['fast'] as const) : (['exact', 'fast'] as const)
test.each(precisions)('%s: decoding gives the bits of one pass', async (precision) => {
  const decoder = await loadDecoder(momentumModel, readArchitecture(momentumModel), {
    precision,
    device: deviceIndex('auto'),
  })
  const ids = readReference(path.join(momentumModel, 'reference.safetensors')).get('input_ids') as Int32Array
  const whole = await decoder.forward(ids, undefined, 'all')
  const cache = new (native().KvCache)(decoder, 64)
  const width = whole.length / ids.length
  const pieces = [
    ids.subarray(0, 7),
    ids.subarray(7, 8),
    ids.subarray(8, 24),
    ids.subarray(24, 25),
    ids.subarray(25),
  ]
  const parts: Float32Array[] = []
  for (const piece of pieces) parts.push(await decoder.forward(piece, cache, 'all'))
  let position = 0
  for (const part of parts) {
    expect(part).toEqual(whole.slice(position, position + part.length))
    position += part.length
  }
  expect(position).toBe(ids.length * width)
  cache.dispose()
  decoder.dispose()
})
