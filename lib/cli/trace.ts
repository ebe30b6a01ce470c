import { type Command, Option } from 'commander'
import { type TensorToWrite, writeSafetensors } from '../checkpoint/write_safetensors'
import type { ModelTrace } from '../model/trace'
import type { Tensor } from '../tensor/tensor'
import { formatFields } from './format'
import { type ModelOptions, type PromptOptions, checkPrompt, encodePrompt, loadModel } from './load'
import { tokenIds } from './options'
import { checkOutFile } from './out_file'
import { type Session, withModelOptions, withSession } from './session'
import { packageVersion } from './version'

interface TraceOptions extends ModelOptions, PromptOptions {
  out: string
  force?: boolean
}

const toWrite = (tensor: Tensor): TensorToWrite => ({
  dtype: tensor.dtype === 'i32' ? 'I32' : 'F32',
  shape: tensor.shape,
  data: tensor.dtype === 'i32' ? tensor.data() : tensor.toF32Array(),
})

/** Tensors of a trace by name: `layers.N.` and what was recorded at that decoder layer. */
function tensorsOf(ids: readonly number[], trace: ModelTrace): Record<string, TensorToWrite> {
  const tensors: Record<string, TensorToWrite> = {
    input_ids: { dtype: 'I32', shape: [ids.length], data: Int32Array.from(ids) },
    logits: toWrite(trace.logits),
  }
  for (const layer of trace.layers) {
    const prefix = `layers.${layer.layer}.`
    tensors[`${prefix}moe_input`] = toWrite(layer.input)
    tensors[`${prefix}residual_in`] = toWrite(layer.residualIn)
    tensors[`${prefix}router_logits`] = toWrite(layer.routerLogits)
    tensors[`${prefix}expert_ids`] = toWrite(layer.ids)
    tensors[`${prefix}expert_weights`] = toWrite(layer.weights)
    tensors[`${prefix}expert_count`] = toWrite(layer.count)
    tensors[`${prefix}moe_output`] = toWrite(layer.output)
    tensors[`${prefix}residual_out`] = toWrite(layer.residualOut)
    if (layer.momentumOut) tensors[`${prefix}momentum_out`] = toWrite(layer.momentumOut)
  }
  return tensors
}

async function trace(session: Session, dir: string, options: TraceOptions): Promise<void> {
  checkPrompt(options)
  const { force: replace = false } = options
  checkOutFile(options.out, replace)
  using model = await loadModel(session, dir, options)
  const ids = [...(await encodePrompt(session, model, options))]
  const recorded = await model.trace(ids, { signal: session.signal })
  const tensors = tensorsOf(ids, recorded)
  const metadata = { producer: `smoe ${packageVersion()}`, precision: options.precision }
  await writeSafetensors(options.out, tensors, { metadata, signal: session.signal, replace })
  const names = Object.keys(tensors)
  const shapes = Object.fromEntries(names.map((name) => [name, tensors[name]!.shape]))
  if (options.json)
    return session.json({ out: options.out, tokens: ids.length, layers: recorded.layers.length, shapes })
  session.print(formatFields(names.map((name) => [name, `[${tensors[name]!.shape.join(', ')}]`])))
  session.note(`${names.length} tensors written to ${options.out}`)
}

export function addTrace(program: Command): void {
  withModelOptions(
    program
      .command('trace')
      .description('record what every MoE layer saw, chose and gave')
      .argument('<model>', 'folder of a checkpoint')
      .addOption(new Option('--prompt <text>', 'prompt as text').conflicts('promptIds'))
      .addOption(
        new Option('--prompt-ids <list>', 'prompt as token ids, separated by commas').argParser(tokenIds),
      )
      .requiredOption('--out <file>', 'safetensors file to write, which must not exist')
      .option('--force', 'replace it if it is a plain file; links, pipes, devices and folders never are'),
  ).action(withSession(trace))
}
