import { SmoeError, describe, describeKind } from '../errors'
import { shapeProduct, shapeText } from '../validate'
import type { ByteSource } from './file_source'
import { jsonFault } from './json_fault'
import { findDuplicateKey } from './json_keys'

/** One tensor of a safetensors file. */
export interface TensorEntry {
  name: string
  /** as the file spells it: 'BF16', 'F32', ... */
  dtype: string
  shape: readonly number[]
  /** first byte, from the start of the file */
  offset: number
  bytes: number
}

export interface SafetensorsHeader {
  tensors: ReadonlyMap<string, TensorEntry>
  metadata: ReadonlyMap<string, string>
}

/** The format's own limit: a longer header is refused before it is read. */
export const maxHeaderBytes = 100_000_000

/** Bits per element of every dtype of the format. */
const dtypeBits: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E4M3', 8],
  ['F8_E5M2', 8],
  ['F8_E8M0', 8],
  ['U16', 16],
  ['I16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['U32', 32],
  ['I32', 32],
  ['F32', 32],
  ['U64', 64],
  ['I64', 64],
  ['F64', 64],
  ['C64', 64],
])

/**
 * Reads and checks the header of a safetensors file. The file is not trusted: every number is checked against the
 * file's size before it is used, and tensors must cover the data area without overlap or hole, as the format demands.
 * @param name the file, as messages call it
 * @throws SmoeError ERR_SMOE_INVALID_SAFETENSORS
 */
export function readSafetensorsHeader(source: ByteSource, name: string): SafetensorsHeader {
  const fail = (why: string) => new SmoeError('ERR_SMOE_INVALID_SAFETENSORS', `${name}: ${why}`)
  if (source.size < 8) throw fail(`${source.size} bytes are too few for a safetensors file`)
  const prefix = source.read(0, 8)
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes))
    // Without the length: of a file that is no safetensors it would show the first bytes.
    throw fail(`its header is longer than the ${maxHeaderBytes} bytes allowed, or it is no safetensors file`)
  const headerBytes = Number(length)
  if (headerBytes > source.size - 8) {
    throw fail(`header of ${headerBytes} bytes does not fit a file of ${source.size}: it is truncated`)
  }
  const fields = parseHeader(source.read(8, headerBytes), fail)
  const metadata = readMetadata(fields, fail)
  const dataStart = 8 + headerBytes
  const tensors = new Map<string, TensorEntry>()
  for (const [key, value] of fields) {
    if (key !== '__metadata__') tensors.set(key, readEntry(key, value, dataStart, source.size, fail))
  }
  checkCoverage([...tensors.values()], dataStart, source.size, fail)
  return { tensors, metadata }
}

type Fail = (why: string) => SmoeError

function parseHeader(bytes: Uint8Array, fail: Fail): [string, unknown][] {
  let text: string
  let header: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    header = JSON.parse(text)
  } catch (error) {
    throw fail(`header is not JSON: ${jsonFault(error)}`)
  }
  if (!isObject(header)) throw fail(`header must be a JSON object, got ${describeKind(header)}`)
  const twice = findDuplicateKey(text)
  if (twice !== undefined) throw fail(`header has the key ${describe(twice)} twice`)
  return Object.entries(header)
}

function readMetadata(fields: [string, unknown][], fail: Fail): Map<string, string> {
  const value = fields.find(([key]) => key === '__metadata__')?.[1]
  if (value === undefined) return new Map()
  if (!isObject(value)) throw fail(`__metadata__ must be an object, got ${describe(value)}`)
  const entries = Object.entries(value)
  for (const [key, item] of entries) {
    if (typeof item !== 'string') throw fail(`__metadata__.${key} must be a string, got ${describe(item)}`)
  }
  return new Map(entries as [string, string][])
}

function readEntry(
  name: string,
  value: unknown,
  dataStart: number,
  fileSize: number,
  fail: Fail,
): TensorEntry {
  if (!isObject(value)) throw fail(`tensor '${name}' must be an object, got ${describe(value)}`)
  const fields = new Map(Object.entries(value))
  for (const key of fields.keys()) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') {
      throw fail(`tensor '${name}' has an unknown field ${describe(key)}`)
    }
  }
  const dtype = fields.get('dtype')
  const bits = typeof dtype === 'string' ? dtypeBits.get(dtype) : undefined
  if (bits === undefined) throw fail(`tensor '${name}' has an unknown dtype ${describe(dtype)}`)
  const shape = fields.get('shape')
  if (!isSizes(shape)) throw fail(`tensor '${name}' must have a shape of non-negative integers`)
  const offsets = fields.get('data_offsets')
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw fail(`tensor '${name}' must have two non-negative integers as data_offsets`)
  }
  const [begin, end] = offsets as [number, number]
  if (begin > end || end > fileSize - dataStart) {
    throw fail(
      `tensor '${name}' at [${begin}, ${end}) lies outside the ${fileSize - dataStart} bytes of data`,
    )
  }
  const elements = shapeProduct(shape)
  const size = elements === undefined ? undefined : shapeProduct([elements, bits])
  if (size === undefined) throw fail(`tensor '${name}' of shape ${shapeText(shape)} is too large to count`)
  if (size !== (end - begin) * 8) {
    throw fail(
      `tensor '${name}' of shape ${shapeText(shape)} and dtype ${String(dtype)} needs ${size / 8} bytes, ` +
        `data_offsets give ${end - begin}`,
    )
  }
  return { name, dtype: dtype as string, shape, offset: dataStart + begin, bytes: end - begin }
}

function checkCoverage(entries: TensorEntry[], dataStart: number, fileSize: number, fail: Fail): void {
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let expected = dataStart
  for (const entry of entries) {
    if (entry.offset < expected) throw fail(`tensor '${entry.name}' overlaps the one before it`)
    if (entry.offset > expected)
      throw fail(`${entry.offset - expected} unused bytes lie before tensor '${entry.name}'`)
    expected = entry.offset + entry.bytes
  }
  if (expected !== fileSize) throw fail(`${fileSize - expected} unused bytes lie after the last tensor`)
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0)
}
