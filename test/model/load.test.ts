import fs from 'node:fs'
import path from 'node:path'
import { type LoadProgress, MoeLayer, MoeModel, Tensor } from '../../lib'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { FileSource } from '../../lib/checkpoint/file_source'
import { type TensorToWrite, writeSafetensors } from '../../lib/checkpoint/write_safetensors'
import { expectFailure } from '../helpers/errors'
import { relativeError } from '../helpers/numbers'
import { hf, momentumModel, plainModel } from '../helpers/paths'
import { readReference, temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
let count = 0

function readWeights(dir: string): Map<string, TensorToWrite> {
  const checkpoint = Checkpoint.openHeaders(dir)
  const file = new FileSource(path.join(dir, 'model.safetensors'))
  const entries = [...checkpoint.tensors.values()]
  const weights = new Map<string, TensorToWrite>(
    entries.map(({ name, shape, offset, bytes }) => [
      name,
      { dtype: 'BF16', shape, data: file.read(offset, bytes) },
    ]),
  )
  checkpoint.close()
  file.close()
  return weights
}

/** A copy of a checkpoint's small files, without weights. */
function emptyCopy(dir: string): string {
  const copy = path.join(folder, String(count++))
  fs.mkdirSync(copy)
  fs.copyFileSync(path.join(dir, 'config.json'), path.join(copy, 'config.json'))
  return copy
}

async function logits(dir: string): Promise<Float32Array> {
  const model = await MoeModel.load(dir)
  const result = await model.forward(ids)
  model.dispose()
  return result.data()
}

test.each(['qwen3_moe', 'mixtral'])(
  '%s with the fused names of transformers 5 gives the same bits',
  async (name) => {
    const weights = readWeights(hf(name))
    const fused = new Map<string, TensorToWrite>()
    const experts = new Map<string, Uint8Array[]>()
    const renames = {
      gate_proj: 'gate_up',
      up_proj: 'gate_up',
      down_proj: 'down',
      w1: 'gate_up',
      w3: 'gate_up',
      w2: 'down',
    }
    const order = ['gate_proj', 'up_proj', 'w1', 'w3', 'down_proj', 'w2']
    const sorted = [...weights].sort(
      ([a], [b]) => order.findIndex((o) => a.includes(o)) - order.findIndex((o) => b.includes(o)),
    )
    const shapes = new Map<string, number[]>()
    for (let e = 0; e < 8; e++) {
      for (const [key, tensor] of sorted) {
        const match = /^(model\.layers\.\d+\.)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$/.exec(
          key,
        )
        if (match === null || Number(match[2]) !== e) continue
        const part = renames[match[3] as keyof typeof renames]
        const target = `${match[1]}mlp.experts.${part}_proj`
        experts.set(target, [...(experts.get(target) ?? []), tensor.data as Uint8Array])
        const [rows, columns] = tensor.shape as [number, number]
        shapes.set(target, [8, part === 'gate_up' ? 2 * rows : rows, columns])
      }
    }
    for (const [key, tensor] of weights) {
      if (!key.includes('.experts.')) fused.set(key.replace('block_sparse_moe.gate', 'mlp.gate'), tensor)
    }
    for (const [key, parts] of experts) {
      fused.set(key, { dtype: 'BF16', shape: shapes.get(key)!, data: Buffer.concat(parts) })
    }
    const dir = emptyCopy(hf(name))
    await writeSafetensors(path.join(dir, 'model.safetensors'), Object.fromEntries(fused))
    expect(await logits(dir)).toEqual(await logits(hf(name)))
  },
)

test('shards give the same bits as one file', async () => {
  const dir = emptyCopy(hf('olmoe'))
  const weights = [...readWeights(hf('olmoe'))]
  const map: Record<string, string> = {}
  for (const shard of [0, 1, 2]) {
    const part = weights.filter((_, i) => i % 3 === shard)
    const name = `model-0000${shard + 1}-of-00003.safetensors`
    for (const [key] of part) map[key] = name
    await writeSafetensors(path.join(dir, name), Object.fromEntries(part))
  }
  fs.writeFileSync(path.join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
  expect(await logits(dir)).toEqual(await logits(hf('olmoe')))
})

test('a missing tensor is named, with its file', async () => {
  const dir = emptyCopy(hf('olmoe'))
  const weights = readWeights(hf('olmoe'))
  weights.delete('model.layers.2.mlp.experts.7.down_proj.weight')
  await writeSafetensors(path.join(dir, 'model.safetensors'), Object.fromEntries(weights))
  await expectFailure(
    () => MoeModel.load(dir),
    'ERR_SMOE_MISSING_TENSOR',
    /'model\.layers\.2\.mlp\.experts\.7\.down_proj\.weight' is missing from .*model\.safetensors/,
  )
})

test('a layer alone gives what it gives inside the model', async () => {
  const reference = readReference(path.join(hf('qwen2_moe'), 'reference.safetensors'))
  using layer = await MoeLayer.load(hf('qwen2_moe'), { layer: 1, precision: 'exact' })
  expect(layer).toMatchObject({ hidden: 64, experts: 8, slots: 3, layerIndex: 1 })
  const input = Tensor.from(reference.get('model.layers.1.mlp.input') as Float32Array, [24, 64])
  const expected = reference.get('model.layers.1.mlp.output')!
  expect(relativeError((await layer.forward(input)).data(), expected)).toBeLessThan(1e-5)
  const call = (index: number) => () => MoeLayer.load(hf('qwen3_moe'), { layer: index })
  await expectFailure(call(0), 'ERR_SMOE_INVALID_ARGUMENT', /layer must be an MoE layer \(1, 2\), got 0/)
  await expectFailure(call(3), 'ERR_SMOE_INVALID_ARGUMENT', /layer must be an integer in \[0, 2\], got 3/)
})

test('progress counts layers; an abort in between gives its reason', async () => {
  const seen: LoadProgress[] = []
  const model = await MoeModel.load(plainModel, { onProgress: (progress) => seen.push(progress) })
  expect(seen.map(({ layers }) => layers)).toEqual([1, 2, 3, 4, 5, 6])
  model.dispose()
  const controller = new AbortController()
  const reason = new Error('changed my mind')
  const call = MoeModel.load(plainModel, {
    signal: controller.signal,
    onProgress: ({ layers }) => layers === 2 && controller.abort(reason),
  })
  await expect(call).rejects.toBe(reason)
})

test('a file that is cut off while the headers were right', async () => {
  const dir = emptyCopy(hf('olmoe'))
  const file = fs.readFileSync(path.join(hf('olmoe'), 'model.safetensors'))
  fs.writeFileSync(path.join(dir, 'model.safetensors'), file.subarray(0, file.length - 1))
  await expectFailure(() => MoeModel.load(dir), 'ERR_SMOE_INVALID_SAFETENSORS', /lies outside/)
})

test('perplexity: windows, limits, progress', async () => {
  const model = await MoeModel.load(momentumModel, { precision: 'exact' })
  const tokens = Int32Array.from({ length: 33 }, (_, i) => (i * 37) % 4096)
  const seen: number[] = []
  const whole = await model.perplexity(tokens, { context: 16, onProgress: (p) => seen.push(p.tokens) })
  expect(whole.tokens).toBe(32)
  expect(seen).toEqual([16, 32])
  let nll = 0
  for (const start of [0, 16]) {
    const rows = (await model.forward(tokens.subarray(start, start + 16))).data()
    for (let t = 0; t < 16; t++) {
      const row = rows.subarray(t * model.vocab, (t + 1) * model.vocab)
      const top = Math.max(...row)
      const sum = row.reduce((acc, l) => acc + Math.exp(l - top), 0)
      nll -= row[tokens[start + t + 1]!]! - top - Math.log(sum)
    }
  }
  expect(whole.nll / nll).toBeCloseTo(1, 6)
  expect(whole.perplexity).toBeCloseTo(Math.exp(whole.nll / 32), 9)
  expect((await model.perplexity(tokens, { context: 16, limitTokens: 31 })).tokens).toBe(16)
  expect((await model.perplexity(tokens.subarray(0, 32), { context: 16 })).tokens).toBe(16)
  const short = () => model.perplexity(tokens.subarray(0, 16), { context: 16 })
  await expectFailure(short, 'ERR_SMOE_INVALID_ARGUMENT', /context \+ 1 = 17 tokens long/)
  await expectFailure(
    () => model.perplexity(tokens, { context: 257 }),
    'ERR_SMOE_INVALID_ARGUMENT',
    /context/,
  )
  model.dispose()
})
