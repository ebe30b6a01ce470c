import path from 'node:path'
import { MoeModel, type QuantizeOptions, inspect, quantizeCheckpoint } from '../../lib'
import { families, hf, momentumModel, quantized } from '../helpers/paths'
import { kinds, writeQuantized } from '../helpers/quantized_checkpoint'
import { temporaryFolder } from '../helpers/safetensors'

const folder = temporaryFolder()
const plain = inspect(momentumModel)

/** Bytes of the weights of a model that is loaded, over what its headers make one expect. */
async function ratio(dir: string): Promise<number> {
  using model = await MoeModel.load(dir, { device: 'cpu' })
  return inspect(dir).loadedBytes / model.memoryUsage().weights
}

const written: [string, QuantizeOptions][] = [
  ['w4', { format: 'w4' }],
  ['w2', { format: 'w2', symmetric: false }],
  ['w4c', { format: 'w4c' }],
  ['t2', { format: 't2' }],
  ['t5', { format: 't5' }],
  ['wn', { format: 'wn', planes: 2 }],
]
test.each(written)(
  'a checkpoint in %s is the model it was made of, with other formats',
  async (name, options) => {
    const dir = path.join(folder, name)
    await quantizeCheckpoint(momentumModel, dir, { ...options, method: 'rtn' })
    const summary = inspect(dir)
    expect(summary.parameters).toEqual(plain.parameters)
    for (const [i, layer] of summary.layers.entries()) {
      expect(layer.parameters).toBe(plain.layers[i]!.parameters)
      expect(Object.keys(layer.formats).sort()).toEqual(['BF16', name].sort())
      expect(layer.bytes).toBe(Object.values(layer.formats).reduce((sum, bytes) => sum + bytes))
    }
    const outside = (s: typeof summary) => s.bytes - s.layers.reduce((sum, { bytes }) => sum + bytes, 0)
    expect(outside(summary)).toBe(outside(plain))
    expect(Math.abs((await ratio(dir)) - 1)).toBeLessThan(0.01)
  },
  60_000,
)

test.each([
  momentumModel,
  ...[...families, 'deepseek_v2', 'deepseek_v3', 'gpt_oss'].map(hf),
  ...['deepseek_v3_fp8', 'gpt_oss_mxfp4', 'qwen3_moe_fp8'].map(quantized),
])('%s takes the memory that its headers say', async (dir) => {
  expect(Math.abs((await ratio(dir)) - 1)).toBeLessThan(0.001)
})

test.each(Object.keys(kinds))('imported from %s', async (kind) => {
  const base = inspect(await writeQuantized(path.join(folder, `${kind}-plain`), kind, true))
  const dir = await writeQuantized(path.join(folder, `${kind}-coded`), kind, false)
  expect(inspect(dir).parameters).toEqual(base.parameters)
  expect(Math.abs((await ratio(dir)) - 1)).toBeLessThan(0.03)
})
