import { type Command, CommanderError, Option } from 'commander'
import { activationsNames } from '../layer/description'
import { loadFormats } from '../model/on_the_fly'
import { device } from './options'

/** What a command gets to talk to the world: results on stdout, progress on stderr, an end on Ctrl-C. */
export interface Session {
  readonly signal: AbortSignal
  /** The result for people: text and a new line. */
  readonly print: (text: string) => void
  /** A part of the result for people, as it is. */
  readonly write: (text: string) => void
  /** A remark beside the result, on stderr. */
  readonly note: (text: string) => void
  /** The result for programs: one JSON document. */
  readonly json: (value: unknown) => void
  /** One line that replaces the one before; nothing unless stderr is a terminal. */
  readonly progress: (text: string) => void
  readonly clearProgress: () => void
}

export class Interrupted extends Error {
  constructor() {
    super('interrupted')
  }
}

export function createSession(): Session & { end(): void } {
  const controller = new AbortController()
  // Once: a second Ctrl-C finds the default action and ends the process at once.
  const interrupt = () => controller.abort(new Interrupted())
  process.once('SIGINT', interrupt)
  let shown = false
  const clearProgress = () => {
    if (shown) process.stderr.write('\r\x1b[K')
    shown = false
  }
  return {
    signal: controller.signal,
    print: (text) => {
      clearProgress()
      process.stdout.write(`${text}\n`)
    },
    write: (text) => {
      clearProgress()
      process.stdout.write(text)
    },
    note: (text) => {
      clearProgress()
      process.stderr.write(`${text}\n`)
    },
    json: (value) => {
      clearProgress()
      process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
    },
    progress: (text) => {
      if (!process.stderr.isTTY) return
      process.stderr.write(`\r\x1b[K${text}`)
      shown = true
    },
    clearProgress,
    end: () => {
      clearProgress()
      process.removeListener('SIGINT', interrupt)
    },
  }
}

/** Wraps the body of a command: makes its session and always ends it. */
export function withSession<A extends unknown[]>(
  body: (session: Session, ...args: A) => Promise<void>,
): (...args: A) => Promise<void> {
  return async (...args) => {
    const session = createSession()
    try {
      await body(session, ...args)
    } finally {
      session.end()
    }
  }
}

/** Ends a command as a usage error, exit code 2, where no option parser can see the mistake. */
export function usageError(message: string): CommanderError {
  return new CommanderError(2, 'smoe.usage', message)
}

/** What --activations chooses among happens in 'fast' alone. */
export function checkActivations({
  precision,
  activations,
}: {
  precision: string
  activations: string
}): void {
  if (precision === 'exact' && activations !== 'auto')
    throw usageError(`--activations ${activations} is for --precision fast: 'exact' rounds none`)
}

export const jsonOption = (): Option => new Option('--json', 'print one JSON document')

export const deviceOption = (): Option =>
  new Option('--device <device>', 'where to run: cpu, cuda, cuda:N, or auto for a GPU if there is one')
    .argParser(device)
    .default('auto')

export const precisionOption = (): Option =>
  new Option('--precision <precision>', 'f32 activations, or rounded ones')
    .choices(['exact', 'fast'])
    .default('fast')

export const activationsOption = (): Option =>
  new Option('--activations <type>', "what experts of integers are multiplied by in 'fast'")
    .choices([...activationsNames])
    .default('auto')

/** Options of every command that loads a model. */
export function withModelOptions(command: Command): Command {
  return command
    .addOption(deviceOption())
    .addOption(precisionOption())
    .addOption(activationsOption())
    .addOption(
      new Option('--format <format>', 'weight format').choices(['stored', ...loadFormats]).default('stored'),
    )
    .addOption(jsonOption())
}
