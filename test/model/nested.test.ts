import fs from 'node:fs'
import { MoeModel } from '../../lib'
import { momentumModel, slice } from '../helpers/paths'

// Bit-nested experts: one copy of the weights, read at 2, 3 or 4 bits from call to call.
describe('a model with bit-nested experts', () => {
  let model: MoeModel
  beforeAll(async () => {
    model = await MoeModel.load(momentumModel, { format: 'wn' })
  })
  afterAll(() => model.dispose())

  it('reads a text better with every plane', async () => {
    const text = fs.readFileSync(slice, 'utf8')
    const at = async (expertBits?: number) =>
      (await model.perplexity(text, { context: 256, limitTokens: 2048, expertBits })).perplexity
    const [two, three, four, all] = [await at(2), await at(3), await at(4), await at()]
    expect(three).toBeLessThan(two)
    expect(four).toBeLessThan(three)
    expect(all).toBe(four)
  })

  it('takes bits per layer and per expert, in forward and generate', async () => {
    const ids = [5, 6, 7, 8]
    const experts = model.stats().map(({ counts }) => counts.length)
    const logits = async (expertBits?: Parameters<MoeModel['forward']>[1]) =>
      (await model.forward(ids, expertBits)).data()
    const low = await logits({ expertBits: 2 })
    expect(await logits({ expertBits: experts.map((n) => Array.from({ length: n }, () => 2)) })).toEqual(low)
    expect(await logits({ expertBits: experts.map((_, layer) => (layer === 0 ? 4 : 2)) })).not.toEqual(low)
    const tokens = async (expertBits: number) => {
      const out: number[] = []
      for await (const { id } of model.generate(ids, { maxNewTokens: 8, ignoreEos: true, expertBits }))
        out.push(id)
      return out
    }
    expect(await tokens(2)).toHaveLength(8)
    expect(await tokens(4)).toEqual(await tokens(8))
  })

  it('refuses what is no number of bits', async () => {
    const experts = model.stats().length
    await expect(model.forward([1], { expertBits: 1 })).rejects.toThrow(RangeError)
    await expect(model.forward([1], { expertBits: [] })).rejects.toThrow(
      `${experts}, the number of MoE layers`,
    )
    await expect(model.forward([1], { expertBits: '2' as never })).rejects.toThrow(TypeError)
    await expect(model.perplexity([1, 2, 3], { context: 2, expertBits: 9 })).rejects.toThrow(RangeError)
    await expect(model.generate([1], { expertBits: 2.5 }).next()).rejects.toThrow(RangeError)
  })
})
