import type { NativeQuantizedParts, QuantizedMatrix } from '../../binding'
import { type Role, canonicalStem } from '../checkpoint/quantized/canonical'
import { type CodebookDtype, codebookDtype, writeScales } from '../checkpoint/quantized/codebook'
import type { TensorToWrite } from '../checkpoint/write_safetensors'
import { SmoeError } from '../errors'

interface Stack {
  ids: number[]
  parts: NativeQuantizedParts[]
}

/** Gathers the quantized matrices of a layer and stacks them into the tensors of specs/quantization.md 4.4. */
export class CanonicalLayer {
  readonly #stacks = new Map<string, Stack>()

  constructor(private readonly layer: number) {}

  /** Copies what the file will hold; the matrix may be disposed of afterwards. */
  async add(role: Role, expert: number, matrix: QuantizedMatrix): Promise<void> {
    const stem = canonicalStem(this.layer, role, matrix.format)
    const parts = await matrix.parts()
    const stack = this.#stacks.get(stem) ?? { ids: [], parts: [] }
    const first = stack.parts[0]
    if (
      first !== undefined &&
      (first.group !== parts.group || (first.zeros === undefined) !== (parts.zeros === undefined))
    ) {
      throw new SmoeError(
        'ERR_SMOE_INVALID_QUANTIZATION',
        `${stem}: experts of one stack must share group and symmetry`,
      )
    }
    stack.ids.push(expert)
    stack.parts.push(parts)
    this.#stacks.set(stem, stack)
  }

  tensors(): Record<string, TensorToWrite> {
    const tensors: Record<string, TensorToWrite> = {}
    for (const [stem, { ids, parts }] of this.#stacks) {
      const first = parts[0]!
      const { rows, format } = first
      const count = ids.length
      const groups = first.scales.length / rows
      const ternary = format === 't2' || format === 't5'
      const put = (suffix: string, tensor: TensorToWrite) => (tensors[`${stem}.${suffix}`] = tensor)
      put('ids', { dtype: 'I32', shape: [count], data: Int32Array.from(ids) })
      put(
        'codes',
        u8(
          parts.map((part) => part.codes),
          [count, rows],
        ),
      )
      put(
        'scales',
        floats(
          parts.map((part) => part.scales),
          [count, rows, groups],
          ternary ? 'F32' : format === 'w4c' ? codebookDtype(first.codebook ?? 0) : 'F16',
        ),
      )
      if (first.zeros !== undefined) {
        // Whole zeros in every expert are bytes; one fractional one makes offsets of them all.
        const whole = parts.every((part) => part.zeros!.every((zero) => Number.isInteger(zero)))
        if (whole)
          put(
            'zeros',
            u8(
              parts.map((part) => Uint8Array.from(part.zeros!)),
              [count, rows],
            ),
          )
        else {
          const mins = parts.map((part) => part.zeros!.map((zero, i) => -part.scales[i]! * zero))
          put('mins', floats(mins, [count, rows, groups], 'F16'))
        }
      }
      if (parts.some((part) => part.mul !== 1)) {
        put('mul', { dtype: 'F32', shape: [count], data: Float32Array.from(parts, (part) => part.mul) })
      }
      for (let plane = 0; plane < (first.planes?.length ?? 0); plane++) {
        const own = parts.map((part) => part.planes![plane]!)
        put(
          `plane${plane + 1}.codes`,
          u8(
            own.map((part) => part.codes),
            [count, rows],
          ),
        )
        put(
          `plane${plane + 1}.scales`,
          floats(
            own.map((part) => part.scales),
            [count, rows, groups],
            'F16',
          ),
        )
      }
    }
    return tensors
  }
}

function u8(arrays: readonly Uint8Array[], shape: readonly number[]): TensorToWrite {
  const data = Buffer.concat(arrays)
  return { dtype: 'U8', shape: [...shape, data.length / shape[0]! / shape[1]!], data }
}

function floats(
  arrays: readonly Float32Array[],
  shape: readonly number[],
  dtype: CodebookDtype | 'F32',
): TensorToWrite {
  const data = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0))
  let at = 0
  for (const array of arrays) {
    data.set(array, at)
    at += array.length
  }
  return { dtype, shape, data: writeScales(dtype, data) }
}
