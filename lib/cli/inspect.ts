import type { Command } from 'commander'
import { describeModel } from './describe_model'
import { formatBytes, formatFields, formatTable } from './format'
import { estimateMemory } from './estimate'
import { positiveInteger } from './options'
import { type Session, jsonOption, withSession } from './session'
import { availableMemory } from './system'

interface InspectOptions {
  estimate?: boolean
  context?: number
  json?: boolean
}

function inspect(session: Session, dir: string, options: InspectOptions): Promise<void> {
  const model = describeModel(dir)
  const estimate = options.estimate ? estimateMemory(model, options.context) : undefined
  if (options.json) {
    const { tensors: _, ...shown } = model
    session.json(
      estimate ? { ...shown, estimate: { ...estimate, availableBytes: availableMemory() } } : shown,
    )
    return Promise.resolve()
  }
  const layerRows = model.layers.map((layer) => [
    String(layer.layer),
    layer.kind,
    layer.experts === 0 ? '-' : `${layer.experts}${layer.shared ? '+1' : ''}`,
    layer.topK === 0 ? '-' : String(layer.topK),
    String(layer.width),
    layer.dtypes.join(' '),
    formatBytes(layer.bytes),
  ])
  session.print(
    formatFields([
      ['architecture', model.modelType],
      ['hidden', String(model.hidden)],
      ['vocabulary', String(model.vocabulary)],
      ['attention', `${model.heads} heads, ${model.kvHeads} for keys and values, ${model.headDim} each`],
      ['positions', String(model.maxPositions)],
      ['residual', model.momentum === null ? 'plain' : JSON.stringify(model.momentum)],
      [
        'parameters',
        `${(model.parameters / 1e6).toFixed(2)} M, ${(model.activeParameters / 1e6).toFixed(2)} M per token`,
      ],
      [
        'bytes',
        `${formatBytes(model.bytes)} in ${model.files.length} file${model.files.length === 1 ? '' : 's'}`,
      ],
    ]),
  )
  session.print(
    `\n${formatTable(['layer', 'kind', 'experts', 'top', 'width', 'dtypes', 'bytes'], layerRows)}`,
  )
  if (estimate) {
    session.print(
      `\n${formatFields([
        ['weights in memory', formatBytes(estimate.weightBytes)],
        [
          `cache, ${estimate.context} tokens`,
          `${formatBytes(estimate.cacheBytes.fast)} fast, ${formatBytes(estimate.cacheBytes.exact)} exact`,
        ],
        ['available now', formatBytes(availableMemory())],
      ])}`,
    )
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
    .action(withSession(inspect))
}
