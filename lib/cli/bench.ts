import { type Command, Option } from 'commander'
import type { Device } from '../device'
import { type Activations, type WeightFormat, weightFormats } from '../layer/description'
import { MoeModel } from '../model/moe_model'
import { runtimeInfo, setThreads } from '../runtime'
import { type LayerResult, benchLayer, figures } from './bench_layer'
import { benchModel } from './bench_model'
import { benchOverhead } from './bench_overhead'
import { shapes } from './bench_shapes'
import { formatBytes, formatNumber, formatSeconds, formatTable } from './format'
import { positiveInteger, positiveIntegers } from './options'
import {
  type Session,
  activationsOption,
  checkActivations,
  deviceOption,
  jsonOption,
  precisionOption,
  usageError,
  withSession,
} from './session'

interface BenchOptions {
  shape: string
  format?: WeightFormat
  precision: 'exact' | 'fast'
  activations: Activations
  tokens: number[]
  threads?: number
  device: Device
  rounds: number
  overhead?: boolean
  json?: boolean
}

const percent = (ratio: number | null): string => (ratio === null ? '' : `${(ratio * 100).toFixed(0)} %`)

function layerTable(results: readonly LayerResult[]): string {
  const header = [
    'tokens',
    'median',
    'best',
    'awaited',
    'tokens/s',
    'experts',
    'GB/s',
    'GFLOP/s',
    ...(results[0]?.boundBy ? ['bound by', 'of roofline', 'at best'] : []),
  ]
  const rows = results.map((result) => [
    String(result.tokens),
    formatSeconds(result.seconds),
    formatSeconds(result.best),
    formatSeconds(result.awaitedSeconds),
    formatNumber(result.tokensPerSecond),
    formatNumber(result.distinctExperts),
    formatNumber(result.gigabytesPerSecond),
    formatNumber(result.gigaflopsPerSecond),
    ...(result.boundBy ? [result.boundBy, percent(result.ratio), percent(result.bestRatio)] : []),
  ])
  return formatTable(header, rows)
}

function ceilingsTable(results: readonly LayerResult[]): string {
  const rows = results.flatMap(({ tokens, ceilings }) =>
    ceilings === null ? [] : [[tokens, ...figures.map((figure) => ceilings[figure])].map(formatNumber)],
  )
  return formatTable(
    ['tokens', 'DRAM GB/s', 'cache GB/s', 'f32 GFLOP/s', 'bf16 GFLOP/s', 'int8 GOP/s', 'int4 GOP/s'],
    rows,
  )
}

/** What every result stands on. */
function machine() {
  const { isa, threads } = runtimeInfo()
  return { isa, threads }
}

async function shapeBench(session: Session, options: BenchOptions): Promise<void> {
  const shape = shapes[options.shape]!
  const { precision, activations, tokens, rounds } = options
  const format = options.format ?? 'bf16'
  const { signal, progress } = session
  const { results, layerBytes, device } = await benchLayer({
    shape,
    format,
    precision,
    activations,
    device: options.device,
    tokens,
    rounds,
    signal,
    progress,
  })
  if (options.json)
    return session.json({
      ...machine(),
      device,
      shape,
      format,
      precision,
      activations,
      rounds,
      layerBytes,
      results,
    })
  const { isa, threads } = machine()
  const { hidden, inter, experts, topK } = shape
  session.print(
    `${shape.name}: hidden ${hidden}, inter ${inter}, experts ${experts}, top ${topK}; ` +
      `${format} weights, ${precision}, ${device === 'cpu' ? `${isa}, ${threads} threads` : device}, ` +
      `layer ${formatBytes(layerBytes)}\n`,
  )
  session.print(layerTable(results))
  if (device !== 'cpu') return
  session.print(
    `\nceilings of this machine, measured between the parts of each row:\n${ceilingsTable(results)}`,
  )
}

async function overheadBench(session: Session, options: BenchOptions): Promise<void> {
  session.progress('measuring calls')
  const results = await benchOverhead(options.precision, options.device, session.signal)
  if (options.json)
    return session.json({ ...machine(), device: options.device, precision: options.precision, results })
  const rows = results.map(({ layer, forwardSync, forward, asyncExtra }) => [
    layer,
    formatSeconds(forwardSync),
    formatSeconds(forward),
    formatSeconds(asyncExtra),
  ])
  session.print(formatTable(['layer, one token', 'forwardSync', 'forward', 'added by forward'], rows))
}

async function modelBench(session: Session, dir: string, options: BenchOptions): Promise<void> {
  const { signal, progress } = session
  const { precision, activations, tokens, rounds } = options
  progress(`loading ${dir}`)
  const model = await MoeModel.load(dir, { precision, activations, device: options.device, signal })
  const { device } = model
  try {
    const { results, skipped } = await benchModel(model, { tokens, rounds, signal, progress })
    if (options.json) {
      const kind = { ...machine(), device, model: dir, precision, activations, rounds }
      return session.json({ ...kind, results, skipped })
    }
    const { isa, threads } = machine()
    session.print(`${dir}: ${precision}, ${device === 'cpu' ? `${isa}, ${threads} threads` : device}\n`)
    const rows = results.map((result) => [
      result.phase,
      String(result.tokens),
      formatSeconds(result.seconds),
      formatNumber(result.tokensPerSecond),
    ])
    session.print(formatTable(['phase', 'tokens', 'median', 'tokens/s'], rows))
    const context = `the model's context is ${model.contextLength} tokens`
    for (const count of skipped) session.note(`prefill of ${count} tokens skipped: ${context}`)
  } finally {
    model.dispose()
  }
}

/** Refuses what this machine cannot do, and options that what is to be timed would not heed. */
function checkOptions(model: string | undefined, options: BenchOptions, command: Command): void {
  const given = (name: string) => command.getOptionValueSource(name) === 'cli'
  if (model !== undefined && given('shape')) throw usageError('MODEL and --shape exclude each other')
  if (model !== undefined && options.format !== undefined) {
    throw usageError('--format is for layers of random weights; a model keeps the format it is stored in')
  }
  if (options.overhead && model !== undefined) throw usageError('MODEL and --overhead exclude each other')
  const fixed = ['shape', 'format', 'activations', 'tokens', 'rounds'].find(given)
  if (options.overhead && fixed !== undefined)
    throw usageError(`--overhead excludes --${fixed}: it times one token through bf16 layers of its own`)
  checkActivations(options)
  if (options.threads === undefined) return
  const { maxThreads } = runtimeInfo()
  if (options.threads > maxThreads) throw usageError(`--threads must be at most ${maxThreads} here`)
}

async function bench(session: Session, model: string | undefined, options: BenchOptions, command: Command) {
  checkOptions(model, options, command)
  if (options.threads !== undefined) setThreads(options.threads)
  if (options.overhead) return overheadBench(session, options)
  if (model !== undefined) return modelBench(session, model, options)
  return shapeBench(session, options)
}

export function addBench(program: Command): void {
  program
    .command('bench')
    .description('time one MoE layer against the ceilings of this machine, or a model')
    .argument('[model]', 'folder of a checkpoint; without it a layer of random weights')
    .addOption(
      new Option('--shape <shape>', 'sizes of the random layer')
        .choices(Object.keys(shapes))
        .default('olmoe'),
    )
    .addOption(new Option('--format <format>', 'weight format').choices([...weightFormats]))
    .addOption(precisionOption())
    .addOption(activationsOption())
    .option('--tokens <list>', 'tokens per call, separated by commas', positiveIntegers, [1, 8, 64, 512])
    .option('--threads <n>', 'threads to use', positiveInteger)
    .option('--rounds <n>', 'rounds over the inputs', positiveInteger, 5)
    .addOption(deviceOption())
    .option('--overhead', 'the cost of a call beyond its kernels')
    .addOption(jsonOption())
    .action(withSession(bench))
}
