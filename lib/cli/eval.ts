import { readFile } from 'node:fs/promises'
import { performance } from 'node:perf_hooks'
import type { Command } from 'commander'
import { SmoeError } from '../errors'
import { formatNumber } from './format'
import { type ModelOptions, loadModel } from './load'
import { expertBits, positiveInteger } from './options'
import { type Session, usageError, withModelOptions, withSession } from './session'

interface EvalOptions extends ModelOptions {
  text: string
  context?: number
  limitTokens?: number
}

async function readTextFile(file: string, signal: AbortSignal): Promise<string> {
  try {
    return await readFile(file, { encoding: 'utf8', signal })
  } catch (error) {
    signal.throwIfAborted()
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const code = missing ? 'ERR_SMOE_FILE_NOT_FOUND' : 'ERR_SMOE_FILE_READ'
    throw new SmoeError(code, `--text ${file}: ${(error as Error).message}`, { cause: error })
  }
}

async function evaluate(session: Session, dir: string, options: EvalOptions): Promise<void> {
  const { context, limitTokens } = options
  if (context !== undefined && limitTokens !== undefined && limitTokens < context)
    throw usageError('--limit-tokens must be at least --context: only whole windows count')
  const text = await readTextFile(options.text, session.signal)
  using model = await loadModel(session, dir, options)
  const begin = performance.now()
  const { tokens, nll, perplexity } = await model.perplexity(text, {
    context,
    limitTokens,
    expertBits: options.expertBits,
    signal: session.signal,
    onProgress: ({ tokens: done, total }) => session.progress(`${done} of ${total} tokens`),
  })
  const seconds = (performance.now() - begin) / 1e3
  if (options.json) return session.json({ tokens, nll, perplexity, seconds })
  session.print(`perplexity ${perplexity.toFixed(4)} over ${tokens} tokens (nll ${nll.toFixed(4)})`)
  session.note(`${formatNumber(tokens / seconds)} tokens/s`)
}

export function addEval(program: Command): void {
  withModelOptions(
    program
      .command('eval')
      .description('perplexity on a text')
      .argument('<model>', 'folder of a checkpoint')
      .requiredOption('--text <file>', 'UTF-8 text')
      .option('--context <n>', 'tokens per window', positiveInteger)
      .option('--limit-tokens <n>', 'stop after this many tokens', positiveInteger)
      .option('--expert-bits <n>', 'bits, 2 to 8, at which bit-nested experts (wn) are read', expertBits),
  ).action(withSession(evaluate))
}
