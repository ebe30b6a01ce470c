#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { addBench } from './bench'
import { addDoctor } from './doctor'
import { addEval } from './eval'
import { addInspect } from './inspect'
import { addQuantize } from './quantize'
import { addRun } from './run'
import { Interrupted } from './session'
import { addTrace } from './trace'
import { packageVersion } from './version'

const program = new Command('smoe')
  .description('Sparse Mixture-of-Experts inference inside Node.')
  .version(packageVersion())
  .showHelpAfterError('(smoe --help lists the commands)')
  .exitOverride() // commands added from here on inherit it

for (const add of [addDoctor, addInspect, addRun, addEval, addTrace, addBench, addQuantize]) add(program)

/** 0 done, 1 failed, 2 wrong usage. */
function exitCode(error: unknown): 0 | 1 | 2 {
  if (error instanceof CommanderError) {
    if (error.code === 'smoe.usage') process.stderr.write(`error: ${error.message}\n`)
    return error.exitCode === 0 ? 0 : 2
  }
  if (error instanceof Interrupted) {
    process.stderr.write('interrupted\n')
    return 1
  }
  const { message, code, stack } = error as Error & { code?: unknown }
  if (process.env['SMOE_DEBUG'] && stack) process.stderr.write(`${stack}\n`)
  const named = typeof code === 'string' ? ` (${code})` : ''
  process.stderr.write(`error: ${message}${named}\n`)
  return 1
}

// A reader that closes the pipe, such as `head`, wanted no more: not a failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))

program.parseAsync().catch((error: unknown) => {
  process.exitCode = exitCode(error)
})
