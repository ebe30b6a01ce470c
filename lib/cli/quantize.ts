import { readFile } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { SmoeError } from '../errors'
import { type QuantizeReport, quantizeCheckpoint } from '../prepare/quantize'
import {
  type QuantizeFormat,
  type QuantizeMethod,
  quantizeFormats,
  quantizeMethods,
} from '../prepare/quantize_options'
import { formatBytes, formatTable } from './format'
import { nonNegativeNumber, positiveInteger } from './options'
import { type Session, jsonOption, usageError, withSession } from './session'

interface CliOptions {
  format?: QuantizeFormat
  bits?: number
  method?: QuantizeMethod
  group?: number
  asym?: boolean
  text?: string
  tokens: number
  out: string
  json?: boolean
}

async function quantize(session: Session, dir: string, options: CliOptions): Promise<void> {
  const { format, bits, method, group, text, out } = options
  if (text === undefined && (bits !== undefined || method === 'gptq'))
    throw usageError(`${bits !== undefined ? '--bits' : '--method gptq'} needs --text to calibrate on`)
  if (bits !== undefined && !(bits >= 1 && bits <= 4)) throw usageError('--bits must lie in [1, 4]')
  const report = await quantizeCheckpoint(dir, out, {
    ...(format === undefined ? {} : { format }),
    ...(bits === undefined ? {} : { bits }),
    ...(method === undefined ? {} : { method }),
    ...(group === undefined ? {} : { group }),
    symmetric: options.asym !== true && method !== 'hqq',
    ...(text === undefined ? {} : { calibration: await readText(text, session.signal) }),
    calibrationTokens: options.tokens,
    signal: session.signal,
    onProgress: ({ phase, done, total }) => session.progress(`${phase}: ${done} of ${total}`),
  })
  if (options.json) return session.json({ out, ...report })
  session.print(table(report))
  const { bytesBefore, bytesAfter } = report
  session.print(`experts: ${formatBytes(bytesBefore)} -> ${formatBytes(bytesAfter)}, written to ${out}`)
  const fallbacks = report.layers.reduce((sum, layer) => sum + layer.fallbacks, 0)
  if (fallbacks > 0)
    session.note(`${fallbacks} experts got too few calibration tokens: quantized by their weights alone`)
}

function table({ layers }: QuantizeReport): string {
  const rows = layers.map((layer) => {
    const counts = new Map<string, number>()
    for (const { format } of layer.experts) counts.set(format, (counts.get(format) ?? 0) + 1)
    const formats = [...counts].sort().map(([name, count]) => `${count} ${name}`)
    return [
      String(layer.layer),
      formats.join(' + '),
      layer.bits.toFixed(2),
      formatBytes(layer.bytesBefore),
      formatBytes(layer.bytesAfter),
      layer.weightError.toFixed(4),
      String(layer.fallbacks),
    ]
  })
  return formatTable(['layer', 'experts', 'bits', 'before', 'after', 'weight error', 'fallbacks'], rows)
}

async function readText(file: string, signal: AbortSignal): Promise<string> {
  try {
    return await readFile(file, { encoding: 'utf8', signal })
  } catch (error) {
    signal.throwIfAborted()
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const code = missing ? 'ERR_SMOE_FILE_NOT_FOUND' : 'ERR_SMOE_FILE_READ'
    throw new SmoeError(code, `--text ${file}: ${(error as Error).message}`, { cause: error })
  }
}

export function addQuantize(program: Command): void {
  program
    .command('quantize')
    .description('write a checkpoint with quantized experts')
    .argument('<model>', 'folder of a checkpoint')
    .addOption(new Option('--format <format>', 'format of all experts').choices(quantizeFormats))
    .addOption(
      new Option('--bits <n>', 'mean bits of a mix of w2 to w4 (below 2: w1 to w3) instead')
        .argParser(nonNegativeNumber)
        .conflicts('format'),
    )
    .addOption(new Option('--method <method>', 'how scales and codes are found').choices(quantizeMethods))
    .option('--group <n>', 'weights per scale', positiveInteger)
    .option('--asym', 'a zero point per group')
    .option('--text <file>', 'UTF-8 text to calibrate on: not the text that quality is measured on')
    .option('--tokens <n>', 'most tokens of it', positiveInteger, 32768)
    .requiredOption('--out <dir>', 'folder to write, which must not exist')
    .addOption(jsonOption())
    .action(withSession(quantize))
}
