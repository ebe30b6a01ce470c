import { performance } from 'node:perf_hooks'
import { type Command, Option } from 'commander'
import { formatNumber } from './format'
import { type ModelOptions, type PromptOptions, checkPrompt, encodePrompt, loadModel } from './load'
import {
  expertBits as bits,
  nonNegativeNumber,
  positiveInteger,
  probability,
  seed as seedNumber,
  tokenIds,
  topK as topKNumber,
} from './options'
import { type Session, withModelOptions, withSession } from './session'

interface RunOptions extends ModelOptions, PromptOptions {
  maxNewTokens: number
  temperature: number
  topP: number
  topK: number
  seed: number
}

async function run(session: Session, dir: string, options: RunOptions): Promise<void> {
  checkPrompt(options)
  using model = await loadModel(session, dir, options)
  const { maxNewTokens, temperature, topP, topK, seed, expertBits } = options
  const ids: number[] = []
  let text = ''
  const begin = performance.now()
  const prompt = await encodePrompt(session, model, options)
  let first = begin
  for await (const token of model.generate(prompt, {
    maxNewTokens,
    temperature,
    topP,
    topK,
    seed,
    expertBits,
    signal: session.signal,
  })) {
    if (ids.push(token.id) === 1) first = performance.now()
    text += token.text
    if (!options.json)
      session.write(token.text || (options.promptIds ? `${ids.length > 1 ? ',' : ''}${token.id}` : ''))
  }
  const seconds = (performance.now() - first) / 1e3
  // The first token includes the prompt, so the rate of decoding counts from there.
  const tokensPerSecond = ids.length > 1 ? (ids.length - 1) / seconds : null
  const firstTokenSeconds = (first - begin) / 1e3
  if (options.json) return session.json({ ids, text, firstTokenSeconds, tokensPerSecond })
  session.write('\n')
  const rate = tokensPerSecond === null ? '' : `, then ${formatNumber(tokensPerSecond)} tokens/s`
  session.note(`${ids.length} tokens; the first after ${formatNumber(firstTokenSeconds)} s${rate}`)
}

export function addRun(program: Command): void {
  withModelOptions(
    program
      .command('run')
      .description('continue a prompt')
      .argument('<model>', 'folder of a checkpoint')
      .addOption(new Option('--prompt <text>', 'prompt as text').conflicts('promptIds'))
      .addOption(
        new Option('--prompt-ids <list>', 'prompt as token ids, separated by commas').argParser(tokenIds),
      )
      .option('--max-new-tokens <n>', 'most tokens to add', positiveInteger, 64)
      .option('--temperature <t>', '0 takes the most likely token', nonNegativeNumber, 0)
      .option('--top-p <p>', 'smallest set of tokens with this probability', probability, 1)
      .option('--top-k <n>', 'most likely tokens to choose from, 0 for all', topKNumber, 0)
      .option('--seed <n>', 'seed of the random choice', seedNumber, 0)
      .option('--expert-bits <n>', 'bits, 2 to 8, at which bit-nested experts (wn) are read', bits),
  ).action(withSession(run))
}
