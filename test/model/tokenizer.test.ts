import fs from 'node:fs'
import fc from 'fast-check'
import { MoeModel } from '../../lib'
import { Detokenizer } from '../../lib/model/detokenizer'
import { type HfTokenizerClass, Tokenizer, workerThreshold } from '../../lib/model/tokenizer'
import { expectFailure } from '../helpers/errors'
import { plainModel, slice } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

// eslint-disable-next-line @typescript-eslint/no-require-imports
const { Tokenizer: HfTokenizer } = require('@huggingface/tokenizers') as { Tokenizer: HfTokenizerClass }
const dir = temporaryFolder()
const tokenizer = Tokenizer.open(plainModel)
const text = fs.readFileSync(slice, 'utf8')

test('long texts are encoded elsewhere, to the same tokens', async () => {
  expect(text.length).toBeGreaterThan(2 * workerThreshold)
  let turns = 0
  let done = false
  const count = () => {
    turns++
    if (!done) setImmediate(count)
  }
  setImmediate(count)
  const ids = await tokenizer.encode(text, false)
  done = true
  expect(turns).toBeGreaterThan(3) // the event loop went round meanwhile
  const read = (name: string) => JSON.parse(fs.readFileSync(`${plainModel}/${name}`, 'utf8')) as object
  const whole = new HfTokenizer(read('tokenizer.json'), read('tokenizer_config.json'))
  expect(Array.from(ids)).toEqual(whole.encode(text, { add_special_tokens: false }).ids)
  expect(tokenizer.decode(Array.from(ids))).toBe(text)
})

test('aborting stops the encoding', async () => {
  const controller = new AbortController()
  const call = tokenizer.encode(text, false, controller.signal)
  controller.abort('no more')
  await expect(call).rejects.toBe('no more')
  await expect(tokenizer.encode('short', false, controller.signal)).rejects.toBe('no more')
})

test('pieces of characters are held back, and nothing is lost', async () => {
  const sample = ' Tōkyō 日本語 — naïve café 😀👩‍👩‍👧 ok'
  const ids = Array.from(await tokenizer.encode(sample, false))
  const detokenizer = new Detokenizer(tokenizer)
  const pieces = ids.map((id) => detokenizer.push(id))
  expect(pieces.join('')).toBe(sample)
  expect(pieces.filter((piece) => piece.includes('\ufffd'))).toEqual([])
  expect(pieces).toContain('') // some characters took several tokens
})

test('any text survives token by token', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'grapheme', maxLength: 40 }), async (sample) => {
      const ids = Array.from(await tokenizer.encode(sample, false))
      const detokenizer = new Detokenizer(tokenizer)
      expect(ids.map((id) => detokenizer.push(id)).join('')).toBe(tokenizer.decode(ids))
    }),
  )
})

test('bytes that never make a character come out in the end', async () => {
  // the first byte of a three-byte character, again and again
  const first = Array.from(await tokenizer.encode('日', false))[0]!
  const detokenizer = new Detokenizer(tokenizer)
  const pieces = Array.from({ length: 40 }, () => detokenizer.push(first))
  expect(pieces.join('')).toMatch(/^\ufffd+$/)
})

test('a decoder that treats the first token of a text specially sees the prompt', () => {
  // as Metaspace decoders do: the space before the first word is dropped
  const words = ['▁one', '▁two', '▁three']
  const decodeRaw = (ids: readonly number[]) =>
    ids
      .map((id) => words[id]!.replace('▁', ' '))
      .join('')
      .trimStart()
  const detokenizer = new Detokenizer({ decodeRaw }, [0])
  expect([detokenizer.push(1), detokenizer.push(2)]).toEqual([' two', ' three'])
})

test('a tokenizer.json that is none', async () => {
  const open = (contents: string) => () => {
    fs.writeFileSync(`${dir}/tokenizer.json`, contents)
    return Tokenizer.open(dir)
  }
  await expectFailure(open('{'), 'ERR_SMOE_TOKENIZER_UNAVAILABLE', /is not JSON/)
  await expectFailure(
    open('{"model":{"type":"Nothing"}}'),
    'ERR_SMOE_TOKENIZER_UNAVAILABLE',
    /cannot be used/,
  )
})

test('encode and decode of a model', async () => {
  const model = await MoeModel.load(plainModel)
  const ids = await model.encode(' The city was')
  expect(Array.from(ids)).toEqual([326, 1086, 324])
  expect(model.decode(ids)).toBe(' The city was')
  expect(model.decode([0, ...ids])).toBe('<|endoftext|> The city was')
  expect(model.decode([0, ...ids], { skipSpecialTokens: true })).toBe(' The city was')
  model.dispose()
})
