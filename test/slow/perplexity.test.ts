import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, type Precision } from '../../lib'
import { momentumModel, plainModel, testSplit } from '../helpers/paths'

// The whole WikiText-2 test split: minutes. exact repeats PyTorch's f32 arithmetic in another order; fast rounds
// activations to bf16, which moves the mean loss by parts in 10^4.
const tolerance = { exact: 5e-4, fast: 3e-3 }

const text = fs.readFileSync(testSplit, 'utf8')

// Of the two architectures momentum's has everything that the other one has, so fast is measured on it alone.
describe.each<[string, string, readonly Precision[]]>([
  ['smoe-wikitext', plainModel, ['exact']],
  ['momentum-wikitext', momentumModel, ['exact', 'fast']],
])('%s', (_, dir, precisions) => {
  const reference = JSON.parse(fs.readFileSync(path.join(dir, 'reference.json'), 'utf8')) as {
    context: number
    test_tokens: number
    test_nll: number
    test_ppl_token: number
  }

  test.each(precisions)(
    '%s: perplexity of the test split',
    async (precision) => {
      const model = await MoeModel.load(dir, { precision })
      const { tokens, nll, perplexity } = await model.perplexity(text, { context: reference.context })
      expect(tokens).toBe(reference.test_tokens)
      expect(Math.abs(perplexity / reference.test_ppl_token - 1)).toBeLessThan(tolerance[precision])
      if (precision === 'exact') expect(Math.abs(nll / reference.test_nll - 1)).toBeLessThan(1e-5)
      model.dispose()
    },
    900_000,
  )
})
