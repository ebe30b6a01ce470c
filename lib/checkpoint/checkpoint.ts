import fs from 'node:fs'
import path from 'node:path'
import type { MappedFile } from '../../binding'
import { SmoeError, describe } from '../errors'
import { guarded, native } from '../native'
import type { FloatDtype } from '../tensor/dtype'
import { shapeText } from '../validate'
import { type ByteSource, FileSource, readJson } from './file_source'
import type { QuantizedWeights } from './quantized/weights'
import { type TensorEntry, readSafetensorsHeader } from './safetensors'

const singleName = 'model.safetensors'
const indexName = 'model.safetensors.index.json'

/** safetensors dtypes of plain weights. */
export const weightDtypes: ReadonlyMap<string, FloatDtype> = new Map([
  ['F32', 'f32'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
])

/** One tensor and the shard that holds it. */
export interface CheckpointTensor extends TensorEntry {
  file: string
}

/** The tensors of a checkpoint folder: one safetensors file, or several named by an index. */
export class Checkpoint {
  readonly tensors: ReadonlyMap<string, CheckpointTensor>
  readonly files: readonly string[]
  /** `__metadata__` of all files; of a key in several the first */
  readonly metadata: ReadonlyMap<string, string>
  /** weights that are stored quantized, where there are any */
  quantized: QuantizedWeights | undefined
  readonly #dir: string
  readonly #sources: ReadonlyMap<string, ByteSource>
  readonly #used = new Set<string>()

  private constructor(
    dir: string,
    sources: Map<string, ByteSource>,
    tensors: Map<string, CheckpointTensor>,
    metadata: Map<string, string>,
  ) {
    this.#dir = dir
    this.metadata = metadata
    this.#sources = sources
    this.tensors = tensors
    this.files = [...sources.keys()]
  }

  /**
   * Opens the files and checks every header.
   * @param open how to open a file: mapped through the addon, or with plain reads where headers are enough
   * @throws SmoeError ERR_SMOE_FILE_NOT_FOUND, ERR_SMOE_FILE_READ, ERR_SMOE_INVALID_SAFETENSORS, ERR_SMOE_MISSING_TENSOR
   */
  static open(dir: string, open: (file: string) => ByteSource = mapFile): Checkpoint {
    const sources = new Map<string, ByteSource>()
    try {
      const { names, owner } = listShards(dir)
      const tensors = new Map<string, CheckpointTensor>()
      const metadata = new Map<string, string>()
      for (const name of names) {
        const file = path.join(dir, name)
        const source = open(file)
        sources.set(name, source)
        const header = readSafetensorsHeader(source, file)
        for (const [key, value] of header.metadata) if (!metadata.has(key)) metadata.set(key, value)
        for (const entry of header.tensors.values()) {
          const expected = owner?.get(entry.name)
          if (owner === undefined || expected === name) tensors.set(entry.name, { ...entry, file: name })
        }
      }
      for (const [tensor, name] of owner ?? []) {
        if (!tensors.has(tensor)) {
          throw new SmoeError(
            'ERR_SMOE_MISSING_TENSOR',
            `tensor '${tensor}' is missing from ${path.join(dir, name)}, where ${indexName} says it is`,
          )
        }
      }
      return new Checkpoint(dir, sources, tensors, metadata)
    } catch (error) {
      for (const source of sources.values()) source.close()
      throw error
    }
  }

  /** As open(), with plain reads: no addon is needed, and tensors cannot be handed to it. */
  static openHeaders(dir: string): Checkpoint {
    return Checkpoint.open(dir, (file) => new FileSource(file))
  }

  has(name: string): boolean {
    return this.tensors.has(name)
  }

  /**
   * The entry of a tensor that must have `shape` and one of `dtypes`.
   * @throws SmoeError ERR_SMOE_MISSING_TENSOR, ERR_SMOE_SHAPE_MISMATCH, ERR_SMOE_DTYPE_MISMATCH
   */
  entry(
    name: string,
    shape: readonly number[],
    dtypes: readonly string[] = [...weightDtypes.keys()],
  ): CheckpointTensor {
    const entry = this.#find(name)
    const place = `tensor '${name}' of ${path.join(this.#dir, entry.file)}`
    if (entry.shape.length !== shape.length || entry.shape.some((size, i) => size !== shape[i])) {
      throw new SmoeError(
        'ERR_SMOE_SHAPE_MISMATCH',
        `${place} must have shape ${shapeText(shape)} by config.json, got ${shapeText(entry.shape)}`,
      )
    }
    if (!dtypes.includes(entry.dtype)) {
      const list = dtypes.length === 1 ? dtypes[0]! : `${dtypes.slice(0, -1).join(', ')} or ${dtypes.at(-1)!}`
      throw new SmoeError('ERR_SMOE_DTYPE_MISMATCH', `${place} must be ${list}, got ${entry.dtype}`)
    }
    this.#used.add(name)
    return entry
  }

  /** Where an entry lies, `skip` bytes into it, for the addon. */
  place(entry: CheckpointTensor, skip = 0): { file: MappedFile; offset: number } {
    return { file: this.#sources.get(entry.file) as MappedFile, offset: entry.offset + skip }
  }

  /**
   * The entry of a tensor of any dtype and shape: for those who check both themselves.
   * @throws SmoeError ERR_SMOE_MISSING_TENSOR
   */
  use(name: string): CheckpointTensor {
    const entry = this.#find(name)
    this.#used.add(name)
    return entry
  }

  /** The open file that holds an entry. */
  file(entry: CheckpointTensor): ByteSource {
    return this.#sources.get(entry.file)!
  }

  /** Names of tensors that nothing asked for. */
  unused(): string[] {
    return [...this.tensors.keys()].filter((name) => !this.#used.has(name)).sort()
  }

  /** Closes the files; weights handed to running calls stay mapped until these are done. */
  close(): void {
    for (const source of this.#sources.values()) source.close()
  }

  #find(name: string): CheckpointTensor {
    const entry = this.tensors.get(name)
    if (entry !== undefined) return entry
    const where =
      this.files.length === 1 ? path.join(this.#dir, this.files[0]!) : path.join(this.#dir, indexName)
    throw new SmoeError('ERR_SMOE_MISSING_TENSOR', `tensor '${name}' is missing from ${where}`)
  }
}

function mapFile(file: string): ByteSource {
  return guarded(() => new (native().MappedFile)(file))
}

function listShards(dir: string): { names: string[]; owner?: Map<string, string> } {
  if (!fs.existsSync(dir)) throw new SmoeError('ERR_SMOE_FILE_NOT_FOUND', `${dir} does not exist`)
  if (fs.existsSync(path.join(dir, singleName))) return { names: [singleName] }
  const index = readJson(dir, indexName, 'ERR_SMOE_INVALID_SAFETENSORS')
  if (index === undefined) {
    throw new SmoeError('ERR_SMOE_FILE_NOT_FOUND', `${dir} has neither ${singleName} nor ${indexName}`)
  }
  const owner = readWeightMap(index, path.join(dir, indexName))
  return { names: [...new Set(owner.values())].sort(), owner }
}

function readWeightMap(index: unknown, file: string): Map<string, string> {
  const map = (index as { weight_map?: unknown } | null)?.weight_map
  const fail = (why: string) => new SmoeError('ERR_SMOE_INVALID_SAFETENSORS', `${file}: ${why}`)
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw fail(`weight_map must be an object, got ${describe(map)}`)
  }
  const owner = new Map<string, string>()
  for (const [tensor, name] of Object.entries(map as Record<string, unknown>)) {
    // A name with a separator could reach any file of the machine.
    if (typeof name !== 'string' || !/^[^/\\:\0]+\.safetensors$/.test(name)) {
      throw fail(
        `weight_map['${tensor}'] must be the plain name of a .safetensors file, got ${describe(name)}`,
      )
    }
    owner.set(tensor, name)
  }
  return owner
}
