import type { TensorSource } from '../../binding'
import { SmoeError } from '../errors'
import type { FloatDtype } from '../tensor/dtype'
import { type Checkpoint, type CheckpointTensor, weightDtypes } from './checkpoint'
import { type Quantization, mxfp4Group, scaleName } from './quantization'

/** Which elements of a stored matrix a weight is: the first one, and how far its rows and columns are apart. */
export interface View {
  first: number
  strides: number[]
}

const scaleDtypes: ReadonlyMap<string, FloatDtype | 'e8m0'> = new Map<string, FloatDtype | 'e8m0'>([
  ...weightDtypes,
  ['F8_E8M0', 'e8m0'],
])

/**
 * The weights of a checkpoint as the addon takes them: slices of mapped files, nothing copied, whether they are plain
 * or coded. Shapes, of scales too, are checked against config.json.
 */
export class Weights {
  constructor(
    readonly checkpoint: Checkpoint,
    readonly quantization: Quantization | undefined,
  ) {}

  /** The first of `names` that the checkpoint has, else the first. */
  oneOf(names: readonly string[]): string {
    return names.find((name) => this.checkpoint.has(name)) ?? names[0]!
  }

  /** A vector, or another tensor that is never coded. */
  plain(name: string, shape: readonly number[]): TensorSource {
    return this.#source(this.checkpoint.entry(name, shape), shape)
  }

  /** A part of a plain tensor [..stored]: a view of `shape`. */
  part(name: string, stored: readonly number[], shape: readonly number[], view: View): TensorSource {
    const source = this.#source(this.checkpoint.entry(name, stored), shape)
    return { ...source, view }
  }

  /** A matrix [N, K]: plain, quantized and still to be read, or FP8 codes beside their block scales. */
  matrix(name: string, shape: readonly [number, number]): TensorSource {
    const { checkpoint, quantization } = this
    const quantized = checkpoint.quantized?.find(name, shape)
    if (quantized !== undefined) return quantized
    if (quantization?.method !== 'fp8' || checkpoint.tensors.get(name)?.dtype !== 'F8_E4M3') {
      return this.plain(name, shape)
    }
    const codes = checkpoint.entry(name, shape, ['F8_E4M3'])
    const block = [...quantization.block]
    const scaleShape = shape.map((size, i) => Math.ceil(size / block[i]!))
    const scales = checkpoint.entry(scaleName(name), scaleShape, [...scaleDtypes.keys()])
    return {
      ...checkpoint.place(codes),
      dtype: 'f8_e4m3',
      shape: [...shape],
      stored: [...shape],
      scales: {
        ...checkpoint.place(scales),
        dtype: scaleDtypes.get(scales.dtype)!,
        shape: scaleShape,
        block,
      },
    }
  }

  /**
   * Matrix `index` of MXFP4 tensors `name`_blocks [E, N, K/32, 16] and `name`_scales [E, N, K/32], or a view of it.
   * @throws SmoeError ERR_SMOE_SHAPE_MISMATCH when K is no multiple of 32
   */
  mxfp4(
    name: string,
    count: number,
    index: number,
    stored: readonly [number, number],
    shape: readonly [number, number],
    view: View,
  ): TensorSource {
    const [rows, columns] = stored
    if (columns % mxfp4Group !== 0) {
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `tensor '${name}_blocks': rows of ${columns} weights are no multiple of ${mxfp4Group}`,
      )
    }
    const groups = columns / mxfp4Group
    const blocks = this.checkpoint.entry(`${name}_blocks`, [count, rows, groups, mxfp4Group / 2], ['U8'])
    const scales = this.checkpoint.entry(`${name}_scales`, [count, rows, groups], ['U8'])
    return {
      ...this.checkpoint.place(blocks, (index * rows * columns) / 2),
      dtype: 'mxfp4',
      shape: [...shape],
      stored: [...stored],
      view,
      scales: {
        ...this.checkpoint.place(scales, index * rows * groups),
        dtype: 'e8m0',
        shape: [rows, groups],
        block: [1, mxfp4Group],
      },
    }
  }

  #source(entry: CheckpointTensor, shape: readonly number[]) {
    return { ...this.checkpoint.place(entry), dtype: weightDtypes.get(entry.dtype)!, shape: [...shape] }
  }
}
