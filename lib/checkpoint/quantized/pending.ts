import type { CancelToken, NativeRawTensor, QuantizedMatrix, TensorSource } from '../../../binding'
import { SmoeError } from '../../errors'
import { abortable } from '../../native'
import type { ByteSource } from '../file_source'
import type { PackedForm } from '../memory'
import type { TensorEntry } from '../safetensors'

/**
 * A quantized weight that has been found and checked but not read: it stands in a description where a TensorSource
 * belongs, until resolvePending() puts the matrix in its place. Descriptions stay synchronous and need no addon that way.
 */
export class PendingWeight {
  readonly dtype = 'f32'

  constructor(
    /** the weight's plain name, for messages */
    readonly name: string,
    readonly shape: number[],
    /** what the matrix will take in memory */
    readonly packed: PackedForm,
    readonly make: (cancel: CancelToken | undefined) => Promise<QuantizedMatrix>,
  ) {}

  /** As the type that descriptions are made of; resolvePending() makes it true. */
  asSource(): TensorSource {
    return this as unknown as TensorSource
  }
}

/** Bytes of a tensor as the addon takes them for an import. */
export function rawTensor(source: ByteSource, entry: TensorEntry): NativeRawTensor {
  return { data: source.read(entry.offset, entry.bytes), dtype: entry.dtype, shape: [...entry.shape] }
}

/**
 * A copy of a description with every pending weight read and made. The matrices live until they are disposed of with
 * `release`, which is due once the description has been used.
 */
export async function resolvePending<T>(
  description: T,
  signal: AbortSignal | undefined,
): Promise<{ description: T; release: () => void }> {
  const made: QuantizedMatrix[] = []
  const release = () => {
    for (const matrix of made) matrix.dispose()
  }
  const walk = async (value: unknown): Promise<unknown> => {
    if (value instanceof PendingWeight) {
      const quantized = await abortable(signal, (cancel) => value.make(cancel)).catch((error: unknown) => {
        if (!(error instanceof SmoeError) || signal?.aborted === true) throw error
        throw new SmoeError(error.code, `weight '${value.name}': ${error.message}`, { cause: error })
      })
      made.push(quantized)
      return { quantized, dtype: 'f32', shape: value.shape }
    }
    if (Array.isArray(value)) {
      const items: unknown[] = []
      for (const item of value) items.push(await walk(item))
      return items
    }
    // Plain objects only: sources hold MappedFile objects, arrays hold numbers.
    if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype)
      return value
    const fields: [string, unknown][] = []
    for (const [key, item] of Object.entries(value)) fields.push([key, await walk(item)])
    return Object.fromEntries(fields)
  }
  try {
    return { description: (await walk(description)) as T, release }
  } catch (error) {
    release()
    throw error
  }
}
