import type { QuantFormatName } from '../../../binding'
import { native } from '../../native'

/**
 * Scales of the 4-bit codebooks as files hold them (specs/quantization.md 4.4). Their dtype says which codebook it is: U8,
 * a power of two (E8M0), for MXFP4; F8_E4M3 for NVFP4; F16 for NF4.
 */
const codebookDtypes = ['U8', 'F8_E4M3', 'F16'] as const
export type CodebookDtype = (typeof codebookDtypes)[number]

export const codebookDtype = (codebook: number): CodebookDtype => codebookDtypes[codebook]!
export const codebookOf = (dtype: string): number => codebookDtypes.indexOf(dtype as CodebookDtype)

/** Dtypes that the scales of a format may have. */
export function scaleDtypes(format: QuantFormatName): readonly string[] {
  return format === 'w4c' ? codebookDtypes : ['F16', 'F32']
}

/** E4M3 without infinities: NaN is 0x7f. */
function e4m3(byte: number): number {
  const exponent = (byte >> 3) & 15
  const mantissa = byte & 7
  if ((byte & 127) === 127) return NaN
  const size = exponent > 0 ? (8 + mantissa) * 2 ** (exponent - 10) : mantissa * 2 ** -9
  return byte & 128 ? -size : size
}

const e4m3Values = Array.from({ length: 256 }, (_, byte) => e4m3(byte))
const e4m3Bytes = new Map(e4m3Values.map((value, byte) => [value, byte]))

export function readScales(dtype: string, bytes: Uint8Array): Float32Array {
  // 255 is NaN, which the addon refuses; 0 is 2^-127.
  if (dtype === 'U8') return Float32Array.from(bytes, (byte) => (byte === 255 ? NaN : 2 ** (byte - 127)))
  if (dtype === 'F8_E4M3') return Float32Array.from(bytes, (byte) => e4m3Values[byte]!)
  const { buffer, byteOffset, byteLength } = bytes.slice() // aligned
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, byteLength / 4)
  return native().toF32(new Uint16Array(buffer, byteOffset, byteLength / 2), 'f16')
}

/** The bytes of scales that the quantizers made, which are exact in their dtype. */
export function writeScales(
  dtype: CodebookDtype | 'F32',
  scales: Float32Array,
): Uint8Array | Uint16Array | Float32Array {
  if (dtype === 'U8') return Uint8Array.from(scales, (scale) => Math.round(Math.log2(scale)) + 127)
  if (dtype === 'F8_E4M3') return Uint8Array.from(scales, (scale) => e4m3Bytes.get(scale)!)
  return dtype === 'F32' ? scales : native().fromF32(scales, 'f16')
}
