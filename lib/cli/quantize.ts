import { readFile } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { SmoeError } from '../errors'
import { type QuantizeReport, quantizeCheckpoint } from '../prepare/quantize'
import { codebooks } from '../layer/description'
import {
  type QuantizeFormat,
  type QuantizeOptions,
  allocations,
  checkQuantizeOptions,
  quantizeFormats,
  quantizeMethods,
  sharedFormats,
  smoothings,
  starvedPolicies,
} from '../prepare/quantize_options'
import { formatBytes, formatTable } from './format'
import { nonNegativeNumber, planes, positiveInteger } from './options'
import { type Session, jsonOption, usageError, withSession } from './session'

interface CliOptions extends Pick<
  QuantizeOptions,
  | 'format'
  | 'codebook'
  | 'planes'
  | 'bits'
  | 'allocate'
  | 'method'
  | 'smooth'
  | 'alignRouter'
  | 'shared'
  | 'group'
  | 'balance'
  | 'starved'
> {
  asym?: boolean
  text?: string
  tokens?: number
  out: string
  json?: boolean
}

/** Formats without zero points: of two or three values, or codes with a zero among them. */
const symmetricFormats: ReadonlySet<string> = new Set(['t2', 't5', 'w1', 'w4c'])

/** Options that another one must go with. */
function checkTogether({ format, codebook, planes, bits, allocate, method, asym }: CliOptions): void {
  if (codebook !== undefined && format !== 'w4c') throw usageError('--codebook needs --format w4c')
  if (planes !== undefined && format !== 'wn') throw usageError('--planes needs --format wn')
  if (bits !== undefined && !(bits >= 1 && bits <= 4)) throw usageError('--bits must lie in [1, 4]')
  if (allocate !== undefined && bits === undefined) throw usageError('--allocate needs --bits')
  if (format === undefined || !symmetricFormats.has(format)) return
  if (asym === true) throw usageError(`--asym excludes --format ${format}, which has no zero points`)
  if (method === 'hqq') throw usageError(`--method hqq fits zero points, which --format ${format} has not`)
}

/** Options that learn from a text, or say how. */
function checkText(options: CliOptions): void {
  const { text, tokens, method, bits, smooth, alignRouter, balance, starved } = options
  if (text !== undefined) return
  const needs: [boolean, string][] = [
    [bits !== undefined, '--bits'],
    [method === 'gptq' || method === 'awq', `--method ${method}`],
    [smooth !== undefined && smooth !== 'none', `--smooth ${smooth}`],
    [alignRouter === true, '--align-router'],
    [balance !== undefined, '--balance'],
    [starved !== undefined, '--starved'],
    [tokens !== undefined, '--tokens'],
  ]
  const found = needs.find(([needed]) => needed)
  if (found !== undefined) throw usageError(`${found[1]} needs --text to calibrate on`)
}

/** What quantizeCheckpoint() will refuse whatever the model is: wrong usage too. */
function checkOptions(options: QuantizeOptions): void {
  try {
    checkQuantizeOptions(options)
  } catch (error) {
    throw usageError((error as Error).message)
  }
}

async function quantize(session: Session, dir: string, options: CliOptions): Promise<void> {
  const { asym, text, tokens, out, json, ...same } = options
  if (out === '') throw usageError('--out must name a folder')
  checkTogether(options)
  checkText(options)
  const settings = {
    ...same,
    ...(asym === true ? { symmetric: false } : {}),
    ...(tokens === undefined ? {} : { calibrationTokens: tokens }),
  }
  checkOptions(text === undefined ? settings : { ...settings, calibration: '' })
  const report = await quantizeCheckpoint(dir, out, {
    ...settings,
    ...(text === undefined ? {} : { calibration: await readText(text, session.signal) }),
    signal: session.signal,
    onProgress: ({ phase, done, total }) => session.progress(`${phase}: ${done} of ${total}`),
  })
  if (json) return session.json({ out, ...report })
  session.print(table(report))
  const { bytesBefore, bytesAfter } = report
  session.print(`experts: ${formatBytes(bytesBefore)} -> ${formatBytes(bytesAfter)}, written to ${out}`)
  const fallbacks = report.layers.reduce((sum, layer) => sum + layer.fallbacks, 0)
  if (fallbacks === 0) return
  const by = same.starved === 'layer' ? "by the whole layer's inputs" : 'by their weights alone'
  session.note(`${fallbacks} experts got too few calibration tokens: quantized ${by}`)
}

/** What was chosen for each layer, and why: of a mix the error that each format would have had in all its experts. */
function table({ layers }: QuantizeReport): string {
  const measured = Object.keys(layers[0]?.errors ?? {}) as QuantizeFormat[]
  const smoothed = layers.some(({ smooth }) => smooth !== undefined)
  const aligned = layers.some(({ router }) => router !== undefined)
  const head = ['layer', 'experts', 'bits']
  head.push(...measured.map((format) => `error ${format}`), 'before', 'after', 'weight error', 'fallbacks')
  if (smoothed) head.push('scales', 'gain')
  if (aligned) head.push('router clip')
  const rows = layers.map((layer) => {
    const counts = new Map<string, number>()
    for (const { format } of layer.experts) counts.set(format, (counts.get(format) ?? 0) + 1)
    const formats = [...counts].sort().map(([name, count]) => `${count} ${name}`)
    const row = [String(layer.layer), formats.join(' + '), layer.bits.toFixed(2)]
    row.push(...measured.map((format) => (layer.errors?.[format] ?? 0).toFixed(4)))
    row.push(formatBytes(layer.bytesBefore), formatBytes(layer.bytesAfter))
    row.push(layer.weightError.toFixed(4), String(layer.fallbacks))
    const { smooth, router } = layer
    if (smoothed) row.push(smooth === undefined ? '1' : `1:${smooth.span}`, smooth?.gain?.toFixed(3) ?? '-')
    if (aligned) row.push(router?.ratio.toFixed(3) ?? '-')
    return row
  })
  return formatTable(head, rows)
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
    .addOption(new Option('--codebook <name>', 'of --format w4c').choices(codebooks))
    .option('--planes <n>', 'of --format wn: one-bit planes after the two base bits', planes)
    .addOption(
      new Option('--bits <n>', 'mean bits of a mix of w2 to w4 (below 2: w1 to w3) instead')
        .argParser(nonNegativeNumber)
        .conflicts('format'),
    )
    .addOption(
      new Option('--allocate <how>', 'of --bits: for each expert (pmq) or each layer').choices(allocations),
    )
    .addOption(new Option('--method <method>', 'how scales and codes are found').choices(quantizeMethods))
    .addOption(
      new Option('--smooth <how>', 'scales that move from weights to the norm before').choices(smoothings),
    )
    .option('--align-router', 'the router in 8 bits, clipped where it chooses experts most as before')
    .addOption(new Option('--shared <format>', 'format of shared experts').choices(sharedFormats))
    .option('--group <n>', 'weights per scale', positiveInteger)
    .option('--asym', 'a zero point per group')
    .option('--balance <ratio>', 'read on until every expert has its share times this', nonNegativeNumber)
    .addOption(
      new Option('--starved <by>', 'experts that the text hardly reaches are quantized by').choices(
        starvedPolicies,
      ),
    )
    .option('--text <file>', 'UTF-8 text to calibrate on: not the text that quality is measured on')
    .option('--tokens <n>', 'most tokens of it (default: 32768)', positiveInteger)
    .requiredOption('--out <dir>', 'folder to write, which must not exist; missing folders above it are made')
    .addOption(jsonOption())
    .action(withSession(quantize))
}
