import type { Command } from 'commander'
import { type CheckpointSummary, inspect } from '../checkpoint/inspect'
import { formatBytes, formatFields, formatTable } from './format'
import { positiveInteger } from './options'
import { type Session, jsonOption, withSession } from './session'
import { availableMemory } from './system'

interface InspectOptions {
  estimate?: boolean
  context?: number
  json?: boolean
}

/** Memory that the loaded model needs, and what there is. */
function estimate(model: CheckpointSummary, wanted?: number) {
  const context = Math.min(wanted ?? model.contextLength, model.contextLength)
  const { fast, exact } = model.kvCacheBytes
  const part = context / model.contextLength
  return {
    weightBytes: model.loadedBytes,
    context,
    kvCacheBytes: { fast: Math.round(fast * part), exact: Math.round(exact * part) },
    availableBytes: availableMemory(),
  }
}

const millions = (count: number): string => `${(count / 1e6).toFixed(2)} M`

function render(model: CheckpointSummary): string {
  const { parameters, heads, kvHeads, headDim, files, unusedTensors } = model
  const fields: [string, string][] = [
    ['architecture', model.modelType],
    ['hidden', String(model.hidden)],
    ['vocabulary', `${model.vocab}, ${model.tokenizer ? 'with' : 'without'} tokenizer.json`],
    ['attention', `${heads} heads, ${kvHeads} for keys and values, ${headDim} each`],
    ['context', `${model.contextLength} tokens`],
    ['residual', model.momentum ? JSON.stringify(model.momentum) : 'plain'],
    ['parameters', `${millions(parameters.total)}, ${millions(parameters.active)} per token`],
    ['bytes', `${formatBytes(model.bytes)} in ${files.length} file${files.length === 1 ? '' : 's'}`],
  ]
  if (unusedTensors.length > 0) fields.push(['not used', unusedTensors.join(', ')])
  const rows = model.layers.map((layer) => [
    String(layer.index),
    layer.kind,
    layer.experts === undefined
      ? '-'
      : `${layer.experts}${layer.sharedWidth === undefined ? '' : ' + shared'}`,
    String(layer.expertsPerToken ?? '-'),
    String(layer.width),
    Object.keys(layer.formats).join(' '),
    formatBytes(layer.bytes),
  ])
  const header = ['layer', 'kind', 'experts', 'per token', 'width', 'formats', 'bytes']
  return `${formatFields(fields)}\n\n${formatTable(header, rows)}`
}

function run(session: Session, dir: string, options: InspectOptions): Promise<void> {
  const model = inspect(dir)
  const needs = options.estimate ? estimate(model, options.context) : undefined
  if (options.json) {
    session.json(needs ? { ...model, estimate: needs } : model)
    return Promise.resolve()
  }
  session.print(render(model))
  if (needs) {
    const { fast, exact } = needs.kvCacheBytes
    const fields: [string, string][] = [
      ['weights in memory', formatBytes(needs.weightBytes)],
      [`cache of ${needs.context} tokens`, `${formatBytes(fast)} fast, ${formatBytes(exact)} exact`],
      ['available now', formatBytes(needs.availableBytes)],
    ]
    session.print(`\n${formatFields(fields)}`)
  }
  return Promise.resolve()
}

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .description('architecture, experts, formats and bytes of a checkpoint, from its headers alone')
    .argument('<model>', 'folder of a checkpoint')
    .option('--estimate', 'also the memory it needs when loaded')
    .option('--context <n>', 'tokens of cache to estimate for', positiveInteger)
    .addOption(jsonOption())
    .action(withSession(run))
}
