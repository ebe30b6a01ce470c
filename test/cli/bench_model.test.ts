import { MoeModel } from '../../lib'
import { runCli, sampleModel } from './run_cli'

test('bench of a model times a full context, and says which prompts are longer', async () => {
  using model = await MoeModel.load(sampleModel)
  const full = model.contextLength
  const args = ['bench', sampleModel, '--rounds', '1', '--tokens', `4,${full},${full + 1}`]
  const { code, stdout } = await runCli([...args, '--json'])
  expect(code).toBe(0)
  const { results, skipped } = JSON.parse(stdout) as {
    results: { phase: string; tokens: number }[]
    skipped: number[]
  }
  const prefills = results.filter(({ phase }) => phase === 'prefill')
  expect(prefills.map(({ tokens }) => tokens)).toEqual([4, full])
  expect(skipped).toEqual([full + 1])
  const table = await runCli(args)
  expect(table.stdout).toMatch(new RegExp(`prefill +${full} `))
  expect(table.stderr).toBe(`prefill of ${full + 1} tokens skipped: the model's context is ${full} tokens\n`)
})
