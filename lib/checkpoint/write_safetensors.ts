import { randomBytes } from 'node:crypto'
import { link, lstat, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { SmoeError } from '../errors'

export type SafetensorsDtype = 'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I8' | 'U8' | 'F8_E4M3'

export interface TensorToWrite {
  dtype: SafetensorsDtype
  shape: readonly number[]
  /** The elements, row by row, little-endian as every platform of this package is. */
  data: ArrayBufferView
}

const elementBytes: Record<SafetensorsDtype, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I8: 1,
  U8: 1,
  F8_E4M3: 1,
}

/** Wide elements first, so that every tensor of the file starts at a multiple of its element size. */
function layOut(tensors: Readonly<Record<string, TensorToWrite>>): [string, TensorToWrite][] {
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const bytes = shape.reduce((product, size) => product * size, elementBytes[dtype])
    if (bytes !== data.byteLength) {
      const expected = `${dtype} [${shape.join(', ')}] is ${bytes} bytes`
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `tensors["${name}"]: ${expected}, data has ${data.byteLength}`,
      )
    }
  }
  return Object.entries(tensors).sort(([, a], [, b]) => elementBytes[b.dtype] - elementBytes[a.dtype])
}

/** Length of the header as u64, then the header as JSON, padded with spaces to a multiple of 8. */
function headerBytes(
  tensors: [string, TensorToWrite][],
  metadata?: Readonly<Record<string, string>>,
): Buffer {
  const header: Record<string, unknown> = {}
  if (metadata) header['__metadata__'] = metadata
  let offset = 0
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.byteLength] }
    offset += data.byteLength
  }
  const json = Buffer.from(JSON.stringify(header))
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  padded.writeBigUInt64LE(BigInt(padded.length - 8), 0)
  json.copy(padded, 8)
  return padded
}

/** rename(), but fails where something has that name: a link never replaces, however late the other came. */
async function renameToNew(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    if (await lstat(to).catch(() => undefined)) throw error
    return rename(from, to) // a file system without hard links: having looked is all there is
  }
  await rm(from)
}

/**
 * Writes a safetensors file under a temporary name in the same folder and renames it: it appears whole or not at all.
 * Whatever has that name by then is replaced, or, with `replace: false`, makes the call fail.
 */
export async function writeSafetensors(
  file: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
  options: {
    metadata?: Readonly<Record<string, string>>
    signal?: AbortSignal
    replace?: boolean
  } = {},
): Promise<void> {
  const ordered = layOut(tensors)
  const suffix = randomBytes(6).toString('hex')
  const temporary = path.join(path.dirname(file), `.${path.basename(file)}.${suffix}.tmp`)
  try {
    const handle = await open(temporary, 'wx')
    try {
      await handle.writeFile(headerBytes(ordered, options.metadata))
      for (const [, { data }] of ordered) {
        options.signal?.throwIfAborted()
        await handle.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      }
      await handle.sync()
    } finally {
      await handle.close()
    }
    await (options.replace === false ? renameToNew : rename)(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined) // the first error is the one to report
    if (options.signal?.aborted) throw options.signal.reason
    throw new SmoeError('ERR_SMOE_FILE_WRITE', `cannot write ${file}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}
