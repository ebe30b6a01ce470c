import type { QuantFormatName } from '../../binding'
import { PendingWeight } from './quantized/pending'

/** What of a quantized weight says how large it is in memory. */
export interface PackedForm {
  format: QuantFormatName
  /** scales per row */
  groups: number
  zeros: boolean
  /** wn: one-bit planes after the base */
  planes: number
  scaleBytes: 2 | 4
}

/** Columns and bytes of the units that native/formats packs 16 rows in. */
const units: Record<QuantFormatName | 'f32' | 'bf16', readonly [columns: number, bytes: number]> = {
  f32: [1, 64],
  bf16: [2, 64],
  w8: [4, 64],
  f8: [4, 64],
  w4: [8, 64],
  w4c: [8, 64],
  w3: [32, 192],
  w2: [16, 64],
  t2: [16, 64],
  w1: [32, 64],
  wn: [32, 128],
  t5: [20, 64],
}
const tileRows = 16

function matrixBytes(rows: number, columns: number, format: keyof typeof units, form?: PackedForm): number {
  const { groups, planes, scaleBytes, zeros } = form ?? { groups: 0, planes: 0, scaleBytes: 2, zeros: false }
  const [unitColumns, unitBytes] = units[format]
  const codes = Math.ceil(columns / unitColumns) * (unitBytes + 64 * planes)
  const scales = tileRows * groups * ((1 + planes) * scaleBytes + (zeros ? 2 : 0))
  return Math.ceil(rows / tileRows) * (codes + scales)
}

/** Weights and the bytes that they take once they are packed. */
export interface WeightSize {
  parameters: number
  bytes: number
}

interface Leaf {
  dtype: string
  shape: readonly number[]
}

const isLeaf = (value: object): value is Leaf => 'dtype' in value && Array.isArray((value as Leaf).shape)

/** 'fast' keeps codes of floats as bf16; f16 is exact in f32 alone. */
const plainFormat = (leaf: Leaf) => (leaf.dtype === 'f32' || leaf.dtype === 'f16' ? 'f32' : 'bf16')

function leafBytes(leaf: Leaf): number {
  const [rows, columns] = leaf.shape as [number, number | undefined]
  if (columns === undefined) return rows * 4 // norms and biases
  if (leaf instanceof PendingWeight) return matrixBytes(rows, columns, leaf.packed.format, leaf.packed)
  return matrixBytes(rows, columns, plainFormat(leaf))
}

/** Latent attention splits kv_b into two matrices per head, which are plain ones whatever it is stored as. */
function splitBytes(leaf: Leaf, latent: { heads: number; nopeDim: number; valueDim: number }): number {
  const { heads, nopeDim, valueDim } = latent
  const rank = leaf.shape[1]!
  const format = plainFormat(leaf)
  return heads * (matrixBytes(rank, nopeDim, format) + matrixBytes(valueDim, rank, format))
}

/** The size of all weights of a description for the addon, on the CPU, loaded with precision 'fast'. */
export function weightSize(description: object): WeightSize {
  const size: WeightSize = { parameters: 0, bytes: 0 }
  const visit = (value: unknown, key: string, owner: object): void => {
    if (typeof value !== 'object' || value === null) return
    if (key === 'invFreq') {
      size.bytes += (value as Float32Array).byteLength
    } else if (isLeaf(value)) {
      size.parameters += value.shape.reduce((product, n) => product * n, 1)
      size.bytes +=
        key === 'kvB' ? splitBytes(value, owner as Parameters<typeof splitBytes>[1]) : leafBytes(value)
    } else {
      for (const [name, item] of Object.entries(value)) visit(item, name, value)
    }
  }
  visit(description, '', description)
  return size
}
