import fs from 'node:fs'
import path from 'node:path'
import { MoeModel, type QuantizeOptions, quantizeCheckpoint } from '../../lib'
import { Checkpoint } from '../../lib/checkpoint/checkpoint'
import { type TensorToWrite, writeSafetensors } from '../../lib/checkpoint/write_safetensors'
import { storedTensor } from '../../lib/prepare/fold'
import { expectFailure } from '../helpers/errors'
import { hf } from '../helpers/paths'
import { temporaryFolder } from '../helpers/safetensors'

// Damage to one layer's file of what quantizeCheckpoint() writes: refused by its own code and by name.

const folder = temporaryFolder()

const kinds: Record<string, QuantizeOptions> = {
  w4: { format: 'w4', symmetric: false, group: 16 },
  w2: { format: 'w2', method: 'hqq', symmetric: false, group: 16 },
  wn: { format: 'wn' },
  t2: { format: 't2', shared: 'w8' },
  t5: { format: 't5' },
  mxfp4: { format: 'w4c' },
  nvfp4: { format: 'w4c', codebook: 'nvfp4' },
}

async function good(kind: string): Promise<string> {
  const dir = path.join(folder, kind)
  if (!fs.existsSync(dir)) await quantizeCheckpoint(hf('qwen2_moe'), dir, kinds[kind])
  return dir
}

const layer = 1
const file = `layer-0000${layer}.safetensors`

type Tensors = Record<string, TensorToWrite>
const at = (tensors: Tensors, name: string): TensorToWrite => tensors[name]!
const bytes = ({ data }: TensorToWrite) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
const set = (tensor: TensorToWrite, ...values: number[]) => bytes(tensor).set(values)

/** The same elements under another shape. */
const reshape = (tensor: TensorToWrite, change: (shape: number[]) => number[]) => {
  tensor.shape = change([...tensor.shape])
}

const cases: [string, string, (tensors: Tensors, stem: string) => void, string, RegExp][] = [
  [
    'codes of another shape',
    'w4',
    (t, s) => reshape(at(t, `${s}.codes`), ([n, rows, b]) => [n!, rows! / 2, b! * 2]),
    'INVALID_QUANTIZATION',
    /up\.w4\.codes' must be U8/,
  ],
  [
    'an expert that is not there',
    'w4',
    (t, s) => set(at(t, `${s}.ids`), 99),
    'INVALID_QUANTIZATION',
    /holds 99/,
  ],
  [
    'an expert twice',
    'w4',
    (t, s) => bytes(at(t, `${s}.ids`)).fill(0),
    'INVALID_QUANTIZATION',
    /second time/,
  ],
  ['missing scales', 'w4', (t, s) => delete t[`${s}.scales`], 'MISSING_TENSOR', /up\.w4\.scales/],
  ['missing codes', 'w4', (t, s) => delete t[`${s}.codes`], 'MISSING_TENSOR', /up\.w4\.codes/],
  [
    'scales of zero',
    'w4',
    (t, s) => set(at(t, `${s}.scales`), 0, 0),
    'INVALID_QUANTIZATION',
    /experts\.0\.up_proj.*scale 0 is 0/,
  ],
  [
    'a scale that is no number',
    'w4',
    (t, s) => set(at(t, `${s}.scales`), 0, 0x7e),
    'INVALID_QUANTIZATION',
    /experts\.0\.up_proj.*scale 0 is -?nan/,
  ],
  [
    'scales for groups that do not divide',
    'w4',
    (t, s) => {
      const tensor = at(t, `${s}.scales`)
      const [n, rows] = tensor.shape as [number, number]
      t[`${s}.scales`] = {
        dtype: 'F16',
        shape: [n, rows, 3],
        data: new Uint16Array(n * rows * 3).fill(15360),
      }
      delete t[`${s}.zeros`]
    },
    'INVALID_QUANTIZATION',
    /3 groups for 64 columns/,
  ],
  [
    'zero points of another shape',
    'w4',
    (t, s) => reshape(at(t, `${s}.zeros`), ([n, rows, g]) => [n!, rows! * g!, 1]),
    'INVALID_QUANTIZATION',
    /zeros' must be U8/,
  ],
  [
    'offsets of integers',
    'w2',
    (t, s) => (at(t, `${s}.mins`).dtype = 'BF16'),
    'INVALID_QUANTIZATION',
    /mins' must be F16/,
  ],
  [
    'an offset that is no number',
    'w2',
    (t, s) => set(at(t, `${s}.mins`), 0, 0x7e),
    'INVALID_QUANTIZATION',
    /zero point that is not finite/,
  ],
  [
    'a multiplier of zero',
    'w4',
    (t, s) => {
      const [count] = at(t, `${s}.ids`).shape as [number]
      t[`${s}.mul`] = { dtype: 'F32', shape: [count], data: new Float32Array(count) }
    },
    'INVALID_QUANTIZATION',
    /multiplier 0/,
  ],
  [
    'a digit of 3',
    't2',
    (t, s) => set(at(t, `${s}.codes`), 255),
    'INVALID_QUANTIZATION',
    /experts\.0\.up_proj.*codes go to 2/,
  ],
  [
    'five digits above 242',
    't5',
    (t, s) => set(at(t, `${s}.codes`), 250),
    'INVALID_QUANTIZATION',
    /codes go to 2, got 255/,
  ],
  [
    'a plane without its scales',
    'wn',
    (t, s) => delete t[`${s}.plane1.scales`],
    'MISSING_TENSOR',
    /plane1\.scales/,
  ],
  [
    'a plane of another shape',
    'wn',
    (t, s) => reshape(at(t, `${s}.plane2.codes`), ([n, rows, b]) => [n!, rows! * b!, 1]),
    'INVALID_QUANTIZATION',
    /plane2\.codes' must be/,
  ],
  [
    'a plane scale that is no number',
    'wn',
    (t, s) => set(at(t, `${s}.plane2.scales`), 0, 0x7c),
    'INVALID_QUANTIZATION',
    /residual scale is inf/,
  ],
  [
    'an exponent of 255',
    'mxfp4',
    (t, s) => set(at(t, `${s}.scales`), 255),
    'INVALID_QUANTIZATION',
    /scale 0 is -?nan/,
  ],
  [
    'an E4M3 scale that is no number',
    'nvfp4',
    (t, s) => set(at(t, `${s}.scales`), 0x7f),
    'INVALID_QUANTIZATION',
    /scale 0 is -?nan/,
  ],
  [
    'scales of a foreign dtype',
    'nvfp4',
    (t, s) => (at(t, `${s}.scales`).dtype = 'I8'),
    'INVALID_QUANTIZATION',
    /must be U8 or F8_E4M3 or F16/,
  ],
  [
    'a format that is not known',
    'w4',
    (t) => (t[`layers.${layer}.experts.up.w9.ids`] = { dtype: 'I32', shape: [1], data: Int32Array.of(0) }),
    'INVALID_QUANTIZATION',
    /'w9'/,
  ],
  [
    'a second shared expert',
    't2',
    (t) => set(at(t, `layers.${layer}.shared.up.w8.ids`), 1),
    'INVALID_QUANTIZATION',
    /shared\.up\.w8\.ids' holds 1/,
  ],
]

test.each(cases)('%s (%s): refused', async (name, kind, change, code, message) => {
  const base = await good(kind)
  const dir = path.join(folder, `${kind}-${name.replaceAll(' ', '-')}`)
  fs.cpSync(base, dir, { recursive: true })
  const checkpoint = Checkpoint.openHeaders(base)
  const tensors: Tensors = {}
  for (const entry of checkpoint.tensors.values())
    if (entry.file === file) tensors[entry.name] = storedTensor(checkpoint, entry)
  const metadata = Object.fromEntries(checkpoint.metadata)
  checkpoint.close()
  const { format } = kinds[kind]!
  change(tensors, `layers.${layer}.experts.up.${format}`)
  const index = path.join(dir, 'model.safetensors.index.json')
  const { weight_map } = JSON.parse(fs.readFileSync(index, 'utf8')) as { weight_map: Record<string, string> }
  const kept = Object.entries(weight_map).filter(([, owner]) => owner !== file)
  const own = Object.keys(tensors).map((tensor) => [tensor, file])
  fs.writeFileSync(index, JSON.stringify({ weight_map: Object.fromEntries([...kept, ...own]) as unknown }))
  await writeSafetensors(path.join(dir, file), tensors, { metadata })
  await expectFailure(() => MoeModel.load(dir), `ERR_SMOE_${code}`, message)
})

test('the undamaged ones load', async () => {
  for (const kind of Object.keys(kinds)) {
    using model = await MoeModel.load(await good(kind))
    expect((await model.forward([1, 2, 3])).toF32Array().every(Number.isFinite)).toBe(true)
  }
})
