import { native } from '../../lib/native'
import type { TensorToWrite } from '../../lib/checkpoint/write_safetensors'

// Writers of other tools' quantized tensors, made from their documentation and not from the code under test.

export interface Encoded {
  /** suffix of the tensor after the stem (`...gate_proj.`) */
  tensors: Record<string, TensorToWrite>
  /** the weights they stand for, row by row */
  values: Float32Array
}
type Encoder = (n: number, k: number, random: () => number) => Encoded

const f16 = (values: readonly number[], shape: readonly number[]): TensorToWrite => ({
  dtype: 'F16',
  shape,
  data: native().fromF32(Float32Array.from(values), 'f16'),
})
const i32 = (words: readonly number[], shape: readonly number[]): TensorToWrite => ({
  dtype: 'I32',
  shape,
  data: Int32Array.from(words, (word) => word | 0),
})

/** Scales that f16 and bf16 hold exactly, about the size that weights have. */
const scaleOf = (random: () => number) => (16 + Math.floor(random() * 16)) / 1024

/** Integer codes with a scale and a zero per group of `group` columns. */
function affine(n: number, k: number, group: number, top: number, random: () => number) {
  const groups = k / group
  const codes = Array.from({ length: n * k }, () => Math.floor(random() * (top + 1)))
  const scales = Array.from({ length: n * groups }, () => scaleOf(random))
  const zeros = Array.from({ length: n * groups }, () => 1 + Math.floor(random() * top))
  const at = (row: number, column: number) => row * groups + Math.floor(column / group)
  const values = Float32Array.from(codes, (code, i) => {
    const g = at(Math.floor(i / k), i % k)
    return scales[g]! * (code - zeros[g]!)
  })
  return { groups, codes, scales, zeros, values }
}

const transposed = (values: readonly number[], n: number, k: number) =>
  Array.from({ length: n * k }, (_, i) => values[(i % n) * k + Math.floor(i / n)]!)

export const gptq: Encoder = (n, k, random) => {
  const { groups, codes, scales, zeros, values } = affine(n, k, 32, 15, random)
  const words: number[] = []
  for (let word = 0; word < k / 8; word++) {
    for (let row = 0; row < n; row++) {
      let bits = 0
      for (let i = 0; i < 8; i++) bits |= codes[row * k + word * 8 + i]! << (4 * i)
      words.push(bits)
    }
  }
  const zeroWords: number[] = []
  for (let g = 0; g < groups; g++) {
    for (let word = 0; word < n / 8; word++) {
      let bits = 0
      for (let i = 0; i < 8; i++) bits |= (zeros[(word * 8 + i) * groups + g]! - 1) << (4 * i) // version 1
      zeroWords.push(bits)
    }
  }
  return {
    tensors: {
      qweight: i32(words, [k / 8, n]),
      qzeros: i32(zeroWords, [groups, n / 8]),
      scales: f16(transposed(scales, n, groups), [groups, n]),
      g_idx: i32(
        Array.from({ length: k }, (_, i) => Math.floor(i / 32)),
        [k],
      ),
    },
    values,
  }
}

export const awq: Encoder = (n, k, random) => {
  const { groups, codes, scales, zeros, values } = affine(n, k, 32, 15, random)
  const order = [0, 2, 4, 6, 1, 3, 5, 7] // nibble i holds column order[i] of eight
  const pack = (line: number, word: number, table: readonly number[], width: number) =>
    order.reduce((bits, column, i) => bits | (table[(word * 8 + column) * width + line]! << (4 * i)), 0)
  const words = (lines: number, table: readonly number[]) =>
    Array.from({ length: (lines * n) / 8 }, (_, i) =>
      pack(Math.floor(i / (n / 8)), i % (n / 8), table, lines),
    )
  return {
    tensors: {
      qweight: i32(words(k, codes), [k, n / 8]),
      qzeros: i32(words(groups, zeros), [groups, n / 8]),
      scales: f16(transposed(scales, n, groups), [groups, n]),
    },
    values,
  }
}

export const packed: Encoder = (n, k, random) => {
  const { groups, codes, scales, values } = affine(n, k, 32, 15, random)
  const words = Array.from({ length: (n * k) / 8 }, (_, word) => {
    let bits = 0
    for (let i = 0; i < 8; i++) bits |= codes[word * 8 + i]! << (4 * i)
    return bits
  })
  values.forEach((_, i) => {
    values[i] = scales[Math.floor(i / k) * groups + Math.floor((i % k) / 32)]! * (codes[i]! - 8)
  })
  return {
    tensors: {
      weight_packed: i32(words, [n, k / 8]),
      weight_scale: f16(scales, [n, groups]),
      weight_shape: i32([n, k], [2]),
    },
    values,
  }
}

/** Zero points packed along rows, eight to a word, offset like the codes. */
export const packedAsymmetric: Encoder = (n, k, random) => {
  const { groups, codes, scales, zeros, values } = affine(n, k, 32, 15, random)
  const words = Array.from({ length: (n * k) / 8 }, (_, word) => {
    let bits = 0
    for (let i = 0; i < 8; i++) bits |= codes[word * 8 + i]! << (4 * i)
    return bits
  })
  const zeroWords = Array.from({ length: (n / 8) * groups }, (_, at) => {
    let bits = 0
    for (let i = 0; i < 8; i++)
      bits |= zeros[(Math.floor(at / groups) * 8 + i) * groups + (at % groups)]! << (4 * i)
    return bits
  })
  return {
    tensors: {
      weight_packed: i32(words, [n, k / 8]),
      weight_scale: f16(scales, [n, groups]),
      weight_zero_point: i32(zeroWords, [n / 8, groups]),
      weight_shape: i32([n, k], [2]),
    },
    values,
  }
}

export const int8: Encoder = (n, k, random) => {
  const codes = Int8Array.from({ length: n * k }, () => Math.floor(random() * 255) - 127)
  const scales = Array.from({ length: n }, () => scaleOf(random) / 16)
  return {
    tensors: { weight: { dtype: 'I8', shape: [n, k], data: codes }, weight_scale: f16(scales, [n, 1]) },
    values: Float32Array.from(codes, (code, i) => code * scales[Math.floor(i / k)]!),
  }
}

/** Bytes 0x30..0x3f and their negatives: exponents -1 and 0 (E4M3, bias 7). */
export const fp8Block: Encoder = (n, k, random) => {
  const codes = Uint8Array.from(
    { length: n * k },
    () => 0x30 + Math.floor(random() * 16) + (random() < 0.5 ? 128 : 0),
  )
  const scale = scaleOf(random)
  const value = (code: number) => {
    const size = 2 ** (((code >> 3) & 15) - 7) * (1 + (code & 7) / 8)
    return code & 128 ? -size : size
  }
  return {
    tensors: {
      weight: { dtype: 'F8_E4M3', shape: [n, k], data: codes },
      weight_scale_inv: { dtype: 'F32', shape: [1, 1], data: Float32Array.of(scale) },
    },
    values: Float32Array.from(codes, (code) => value(code) * scale),
  }
}

/** E4M3 with one scale per row. */
export const fp8Rows: Encoder = (n, k, random) => {
  const { tensors, values } = fp8Block(n, k, random)
  const one = (tensors['weight_scale_inv']!.data as Float32Array)[0]!
  const scales = Float32Array.from({ length: n }, () => scaleOf(random))
  return {
    tensors: {
      weight: tensors['weight']!,
      weight_scale: { dtype: 'F32', shape: [n, 1], data: scales },
    },
    values: values.map((value, i) => (value / one) * scales[Math.floor(i / k)]!),
  }
}

const e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

export const mxfp4: Encoder = (n, k, random) => {
  const codes = Array.from({ length: n * k }, () => Math.floor(random() * 16))
  const scales = Uint8Array.from({ length: (n * k) / 32 }, () => 120 + Math.floor(random() * 3))
  return {
    tensors: {
      weight_packed: {
        dtype: 'U8',
        shape: [n, k / 2],
        data: Uint8Array.from({ length: (n * k) / 2 }, (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4)),
      },
      weight_scale: { dtype: 'U8', shape: [n, k / 32], data: scales },
    },
    values: Float32Array.from(
      codes,
      (code, i) => (code & 8 ? -1 : 1) * e2m1[code & 7]! * 2 ** (scales[Math.floor(i / 32)]! - 127),
    ),
  }
}

/** E2M1 under an E4M3 scale per 16 and a global scale that divides. */
export const nvfp4: Encoder = (n, k, random) => {
  const codes = Array.from({ length: n * k }, () => Math.floor(random() * 16))
  // Bytes 0x38 + m: 1 + m / 8.
  const scales = Uint8Array.from({ length: (n * k) / 16 }, () => 0x38 + Math.floor(random() * 8))
  const global = 32
  return {
    tensors: {
      weight_packed: {
        dtype: 'U8',
        shape: [n, k / 2],
        data: Uint8Array.from({ length: (n * k) / 2 }, (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4)),
      },
      weight_scale: { dtype: 'F8_E4M3', shape: [n, k / 16], data: scales },
      weight_global_scale: { dtype: 'F32', shape: [1], data: Float32Array.of(global) },
    },
    values: Float32Array.from(
      codes,
      (code, i) =>
        ((code & 8 ? -1 : 1) * e2m1[code & 7]! * (1 + (scales[Math.floor(i / 16)]! - 0x38) / 8)) / global,
    ),
  }
}

export const bitnet: Encoder = (n, k, random) => {
  const trits = Array.from({ length: n * k }, () => Math.floor(random() * 3) - 1)
  const quarter = n / 4
  const data = Uint8Array.from({ length: quarter * k }, (_, i) => {
    let byte = 0
    for (let part = 0; part < 4; part++) byte |= (trits[part * quarter * k + i]! + 1) << (2 * part)
    return byte
  })
  return {
    tensors: {
      weight: { dtype: 'U8', shape: [quarter, k], data },
      weight_scale: { dtype: 'F32', shape: [1], data: Float32Array.of(0.0625) },
    },
    values: Float32Array.from(trits, (trit) => trit * 0.0625),
  }
}
