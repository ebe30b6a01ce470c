import { type GenerateOptions, MoeModel } from '../../lib'
import { fewer } from '../helpers/device'
import { expectFailure } from '../helpers/errors'
import { hf, momentumModel } from '../helpers/paths'

let model: MoeModel
beforeAll(async () => {
  model = await MoeModel.load(momentumModel)
})
afterAll(() => model.dispose())

const prompt = [326, 1086, 324]
const some = fewer(12, 4)

async function run(options: GenerateOptions, start: number[] | string = prompt): Promise<number[]> {
  const ids: number[] = []
  for await (const { id } of model.generate(start, options)) ids.push(id)
  return ids
}

test('greedy is the default, and what top-1 sampling and an argmax over logits give', async () => {
  const greedy = await run({ maxNewTokens: some })
  expect(await run({ maxNewTokens: some, temperature: 1, topK: 1, seed: 5 })).toEqual(greedy)
  const logits = await model.forward([...prompt, ...greedy])
  greedy.forEach((id, i) => {
    const row = logits
      .data()
      .subarray((prompt.length - 1 + i) * model.vocab, (prompt.length + i) * model.vocab)
    expect(row.indexOf(Math.max(...row))).toBe(id)
  })
})

test('sampling depends on the seed alone', async () => {
  const options = { maxNewTokens: 2 * some, temperature: 1.2, topP: 0.95 }
  const a = await run({ ...options, seed: 1 })
  expect(await run({ ...options, seed: 1 })).toEqual(a)
  expect(await run({ ...options, seed: 2 })).not.toEqual(a)
})

test('a stop token ends the text and is not given out', async () => {
  const greedy = await run({ maxNewTokens: some })
  const stop = greedy[some >> 1]!
  expect(await run({ maxNewTokens: some, stopTokens: [stop] })).toEqual(greedy.slice(0, greedy.indexOf(stop)))
})

test('the context is filled to its last position and no further', async () => {
  const small = await MoeModel.load(momentumModel, { contextLength: 8 })
  let count = 0
  for await (const token of small.generate(prompt, { ignoreEos: true, maxNewTokens: 99 }))
    count += token.id >= 0 ? 1 : 0
  expect(count).toBe(8 - 3 + 1) // the last token needs no position of its own
  const call = () => small.generate(Array<number>(9).fill(1)).next()
  const message = /prompt must have at most contextLength \(8\) tokens, got 9/
  await expectFailure(call, 'ERR_SMOE_CONTEXT_OVERFLOW', message)
  await expectFailure(
    () => small.forward(Array(9).fill(1)),
    'ERR_SMOE_CONTEXT_OVERFLOW',
    /at most contextLength \(8\)/,
  )
  small.dispose()
})

test('leaving the loop frees the cache', async () => {
  for await (const { id } of model.generate(prompt, { maxNewTokens: 50 })) {
    expect(id).toBeGreaterThanOrEqual(0)
    expect(model.memoryUsage().kvCaches).toBeGreaterThan(0)
    break
  }
  expect(model.memoryUsage().kvCaches).toBe(0)
})

test('aborting rejects with the reason and frees the cache', async () => {
  const controller = new AbortController()
  const reason = new Error('the client went away')
  const seen: number[] = []
  const loop = async () => {
    for await (const { id } of model.generate(prompt, { signal: controller.signal })) {
      seen.push(id)
      if (seen.length === 3) controller.abort(reason)
    }
  }
  await expect(loop()).rejects.toBe(reason)
  expect(seen).toHaveLength(3)
  expect(model.memoryUsage().kvCaches).toBe(0)
})

test('several texts at once do not disturb each other', async () => {
  const alone = [await run({ maxNewTokens: some }), await run({ maxNewTokens: some }, [5, 6, 7, 8])]
  const together = await Promise.all([run({ maxNewTokens: some }), run({ maxNewTokens: some }, [5, 6, 7, 8])])
  expect(together).toEqual(alone)
})

test('a model without tokenizer takes and gives ids', async () => {
  const bare = await MoeModel.load(hf('olmoe'))
  const { value } = await bare.generate([1, 2, 3], { maxNewTokens: 1 }).next()
  expect(value).toEqual({ id: expect.any(Number), text: '' })
  const text = () => bare.generate('some text').next()
  await expectFailure(text, 'ERR_SMOE_TOKENIZER_UNAVAILABLE', /tokenizer.json does not exist: give token ids/)
  await expectFailure(() => bare.decode([1]), 'ERR_SMOE_TOKENIZER_UNAVAILABLE', /tokenizer.json/)
  bare.dispose()
})

const refusals: [string, GenerateOptions, string, RegExp][] = [
  ['temperature', { temperature: -1 }, 'ARGUMENT', /temperature must be a finite number/],
  ['temperature NaN', { temperature: NaN }, 'ARGUMENT', /temperature/],
  ['topP of 0', { topP: 0 }, 'ARGUMENT', /topP/],
  ['topP above 1', { topP: 1.1 }, 'ARGUMENT', /topP .* got 1.1/],
  ['negative topK', { topK: -1 }, 'ARGUMENT', /topK/],
  ['seed', { seed: 2 ** 32 }, 'ARGUMENT', /seed must be an integer in \[0, 4294967295\]/],
  ['maxNewTokens of 0', { maxNewTokens: 0 }, 'ARGUMENT', /maxNewTokens/],
  ['text maxNewTokens', { maxNewTokens: '3' as never }, 'TYPE', /maxNewTokens must be a number, got '3'/],
  ['stopTokens', { stopTokens: 5 as never }, 'TYPE', /stopTokens must be an array/],
  ['signal', { signal: {} as never }, 'TYPE', /signal must be an AbortSignal/],
]
test.each(refusals)('refuses %s', async (_, options, kind, message) => {
  await expectFailure(() => run(options), `ERR_SMOE_INVALID_${kind}`, message)
})

test('expert statistics count every token of every layer', async () => {
  model.resetStats()
  await model.forward([1, 2, 3, 4, 5])
  const stats = model.stats()
  expect(stats.map(({ layer }) => layer)).toEqual([0, 1, 2, 3, 4, 5])
  for (const { total, counts } of stats) {
    expect(total).toBe(10) // five tokens, two experts each
    expect(counts).toHaveLength(16)
  }
})
