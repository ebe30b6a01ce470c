import path from 'node:path'
import { quantizeCheckpoint } from '../../lib'
import { hasNestedExperts } from '../../lib/cli/nested'
import { temporaryFolder } from '../helpers/safetensors'
import { root, runCli, sampleModel } from './run_cli'

const folder = temporaryFolder()
const slice = path.join(root, 'examples', 'wikitext-2-slice.txt')

describe('--expert-bits', () => {
  const evaluate = (model: string, ...more: string[]) =>
    runCli(['eval', model, '--text', slice, '--context', '64', '--limit-tokens', '256', '--json', ...more])
  const nested = path.join(folder, 'wn')
  const other = path.join(folder, 'w4')
  beforeAll(async () => {
    await quantizeCheckpoint(sampleModel, nested, { format: 'wn' })
    await quantizeCheckpoint(sampleModel, other, { format: 'w4' })
  })

  test.each([
    ['plain experts', () => [sampleModel]],
    ['experts rounded to another format', () => [sampleModel, '--format', 'w4']],
    ['experts stored in another format', () => [other]],
    ['experts stored in another format, which loading leaves', () => [other, '--format', 'wn']],
  ])('is refused for %s, where it would change nothing', async (_, model) => {
    const [dir, ...more] = model() as [string, ...string[]]
    const results = [
      await evaluate(dir, ...more, '--expert-bits', '2'),
      await runCli(['run', dir, ...more, '--prompt-ids', '1', '--expert-bits', '2']),
    ]
    for (const { code, stdout, stderr } of results) {
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/--expert-bits must be absent .* no bit-nested experts/)
    }
  })

  test.each([
    ['rounded while loading', () => [sampleModel, '--format', 'wn']],
    ['as stored', () => [nested]],
  ])('counts for bit-nested experts %s', async (_, model) => {
    const [dir, ...more] = model() as [string, ...string[]]
    const perplexity = async (...bits: string[]) => {
      const { code, stdout } = await evaluate(dir, ...more, ...bits)
      expect(code).toBe(0)
      return (JSON.parse(stdout) as { perplexity: number }).perplexity
    }
    expect(await perplexity('--expert-bits', '2')).toBeGreaterThan(await perplexity())
  })

  test('which models have them is seen from the headers', () => {
    expect(hasNestedExperts(nested, 'stored')).toBe(true)
    expect(hasNestedExperts(nested, 'w4')).toBe(true) // what is stored quantized stays
    expect(hasNestedExperts(other, 'stored')).toBe(false)
    for (const family of ['mixtral', 'deepseek_v3', 'gpt_oss']) {
      const dir = path.join(root, 'test', 'fixtures', 'hf', family)
      expect(hasNestedExperts(dir, 'stored')).toBe(false)
      expect(hasNestedExperts(dir, 'wn')).toBe(true)
    }
  })
})
