import type { NativeQuantizedParts, QuantFormatName, TensorSource } from '../../../binding'
import { SmoeError } from '../../errors'
import { native } from '../../native'
import type { Architecture, MoePlan } from '../architecture'
import type { Checkpoint, CheckpointTensor } from '../checkpoint'
import type { PackedForm } from '../memory'
import { codebookOf, readScales, scaleDtypes } from './codebook'
import { PendingWeight } from './pending'
import type { QuantizedWeights } from './weights'

/** Key of `__metadata__` that marks a file of this form. */
export const versionKey = 'smoe.version'
export const quantKey = 'smoe.quant'
export const canonicalVersion = '1'

export const projectionNames = ['gate', 'up', 'down'] as const
export type Projection = (typeof projectionNames)[number]
/** What a layer may have quantized: projections of its routed experts, of its shared expert (stacks of one), its router. */
export type Role = `experts.${Projection}` | `shared.${Projection}` | 'router.weight'

/** `layers.3.experts.gate.w4`: the stem of the stacked tensors of one layer, role and format. */
export function canonicalStem(layer: number, role: Role, format: string): string {
  return `layers.${layer}.${role}.${format}`
}

const formats: ReadonlySet<string> = new Set<QuantFormatName>([
  'w8',
  'w4',
  'w4c',
  'w3',
  'w2',
  'w1',
  'wn',
  't2',
  't5',
])
const pattern = /^layers\.(\d+)\.((?:experts|shared)\.(?:gate|up|down)|router\.weight)\.([a-z0-9]+)\.ids$/

/** Layer and format of a tensor of this form; undefined for all others. */
export function canonicalPart(name: string): { layer: number; format: string } | undefined {
  const match = /^layers\.(\d+)\.(?:(?:experts|shared)\.\w+|router\.weight)\.([a-z0-9]+)\./.exec(name)
  return match === null ? undefined : { layer: Number(match[1]), format: match[2]! }
}

/** The name that the plain weight would have; undefined where the layer has no such expert. */
function plainName(moe: MoePlan, role: Role, index: number): string | undefined {
  const [owner, projection] = role.split('.') as [string, Projection]
  if (owner === 'experts')
    return index >= 0 && index < moe.experts ? moe.expert(index)[projection] : undefined
  if (index !== 0) return undefined
  return owner === 'shared' ? moe.shared?.[projection] : moe.routerWeight[0]
}

/** One expert's slices of the stacked tensors. */
interface Place {
  stem: string
  format: QuantFormatName
  index: number
  count: number
}

/**
 * Experts in the canonical form (specs/quantization.md 4.4), found by the names they would have unquantized. Undefined
 * for a checkpoint that is not of this form.
 * @throws SmoeError ERR_SMOE_INVALID_QUANTIZATION, ERR_SMOE_UNSUPPORTED_ARCHITECTURE for another version
 */
export function canonicalWeights(
  checkpoint: Checkpoint,
  architecture: Architecture,
): QuantizedWeights | undefined {
  const version = checkpoint.metadata.get(versionKey)
  if (version === undefined) return undefined
  if (version !== canonicalVersion) {
    throw new SmoeError(
      'ERR_SMOE_UNSUPPORTED_ARCHITECTURE',
      `${versionKey} '${version}' is not supported; known: ${canonicalVersion}`,
    )
  }
  const places = new Map<string, Place>()
  for (const name of checkpoint.tensors.keys()) {
    const match = pattern.exec(name)
    if (match === null) continue
    const [, layer, role, format] = match as unknown as [string, string, Role, string]
    if (!formats.has(format)) throw invalid(name, `has the unknown format '${format}'`)
    const plan = architecture.layers[Number(layer)]?.moe
    if (plan === undefined) throw invalid(name, 'belongs to no MoE layer of config.json')
    const ids = readIds(checkpoint, name)
    const stem = canonicalStem(Number(layer), role, format)
    for (const [index, expert] of ids.entries()) {
      const plain = plainName(plan, role, expert)
      if (plain === undefined) throw invalid(name, `holds ${expert} of ${plan.experts} experts`)
      if (places.has(plain)) throw invalid(name, `holds expert ${expert} a second time`)
      places.set(plain, { stem, format: format as QuantFormatName, index, count: ids.length })
    }
  }
  return {
    find(name, shape) {
      const place = places.get(name)
      return place === undefined ? undefined : source(checkpoint, name, place, shape)
    },
  }
}

function readIds(checkpoint: Checkpoint, name: string): Int32Array {
  const entry = checkpoint.use(name)
  if (entry.dtype !== 'I32' || entry.shape.length !== 1) throw invalid(name, 'must be I32 [experts]')
  const bytes = checkpoint.file(entry).read(entry.offset, entry.bytes)
  return new Int32Array(bytes.buffer, bytes.byteOffset, entry.shape[0])
}

function source(checkpoint: Checkpoint, name: string, place: Place, shape: readonly number[]): TensorSource {
  const { stem, format, index, count } = place
  const [rows, cols] = shape as [number, number]
  // Everything is found and its size checked now, so that a damaged file is refused before anything is loaded.
  const codes = stacked(checkpoint, `${stem}.codes`, ['U8'], [count, rows, rowBytes(format, cols)])
  const scales = stacked(checkpoint, `${stem}.scales`, scaleDtypes(format), [count, rows, -1])
  const groups = scales.shape[2]!
  const group = cols / groups
  if (!Number.isInteger(group)) throw invalid(`${stem}.scales`, `has ${groups} groups for ${cols} columns`)
  const optional = (suffix: string, dtypes: readonly string[], size: readonly number[]) =>
    checkpoint.has(`${stem}.${suffix}`) ? stacked(checkpoint, `${stem}.${suffix}`, dtypes, size) : undefined
  const zeros = optional('zeros', ['U8'], [count, rows, groups])
  const mins = optional('mins', ['F16'], [count, rows, groups])
  const mul = optional('mul', ['F32'], [count])
  const planes: { codes: CheckpointTensor; scales: CheckpointTensor }[] = []
  for (let i = 1; checkpoint.has(`${stem}.plane${i}.codes`); i++) {
    planes.push({
      codes: stacked(checkpoint, `${stem}.plane${i}.codes`, ['U8'], [count, rows, Math.ceil(cols / 8)]),
      scales: stacked(checkpoint, `${stem}.plane${i}.scales`, ['F16'], [count, rows, groups]),
    })
  }
  const slice = (entry: CheckpointTensor) => {
    const bytes = entry.bytes / count
    return checkpoint.file(entry).read(entry.offset + index * bytes, bytes)
  }
  const make: PendingWeight['make'] = async (cancel) => {
    const parts: NativeQuantizedParts = {
      format,
      rows,
      cols,
      group,
      mul: mul === undefined ? 1 : readScales('F32', slice(mul))[0]!,
      codes: slice(codes),
      scales: readScales(scales.dtype, slice(scales)),
      planes: planes.map((plane) => ({
        codes: slice(plane.codes),
        scales: readScales('F16', slice(plane.scales)),
      })),
    }
    if (format === 'w4c') parts.codebook = codebookOf(scales.dtype)
    if (zeros !== undefined) parts.zeros = Float32Array.from(slice(zeros))
    if (mins !== undefined) {
      const { scales: steps } = parts
      // The offset is -scale * zero.
      parts.zeros = readScales('F16', slice(mins)).map((min, i) => -min / steps[i]!)
    }
    return native().QuantizedMatrix.from(parts, cancel)
  }
  const packed: PackedForm = {
    format,
    groups,
    zeros: zeros !== undefined || mins !== undefined,
    planes: planes.length,
    scaleBytes: scales.dtype === 'F32' ? 4 : 2,
  }
  return new PendingWeight(name, [...shape], packed, make).asSource()
}

function stacked(
  checkpoint: Checkpoint,
  name: string,
  dtypes: readonly string[],
  shape: readonly number[],
): CheckpointTensor {
  const entry = checkpoint.use(name)
  const fits = entry.shape.length === shape.length && shape.every((n, i) => n === -1 || n === entry.shape[i])
  if (!dtypes.includes(entry.dtype) || !fits || entry.bytes === 0) {
    throw invalid(name, `must be ${dtypes.join(' or ')} [${shape.join(', ').replace('-1', 'groups')}]`)
  }
  return entry
}

/** Bytes of a row of codes. */
export function rowBytes(format: QuantFormatName, cols: number): number {
  if (format === 't5') return Math.ceil(cols / 5)
  const bits = { w8: 8, w4: 4, w4c: 4, w3: 3, w2: 2, wn: 2, t2: 2, w1: 1, f8: 8 }[format]
  return Math.ceil((cols * bits) / 8)
}

function invalid(name: string, why: string): SmoeError {
  return new SmoeError('ERR_SMOE_INVALID_QUANTIZATION', `tensor '${name}' ${why}`)
}
