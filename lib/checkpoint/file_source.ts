import fs from 'node:fs'
import path from 'node:path'
import { SmoeError } from '../errors'
import { jsonFault } from './json_fault'

/** Bytes of a file: the addon's MappedFile, or plain reads. */
export interface ByteSource {
  readonly size: number
  read(offset: number, length: number): Uint8Array
  close(): void
}

/**
 * Opening a named pipe waits for a writer, and with it the event loop: without waiting fstat gets to refuse it. Windows
 * has no such flag, and no pipes among files.
 */
const readFlags = fs.constants.O_RDONLY | ((fs.constants.O_NONBLOCK as number | undefined) ?? 0)

/** A file read with fs: for headers, where no mapping and no addon is needed. */
export class FileSource implements ByteSource {
  readonly size: number
  #fd: number | undefined

  constructor(readonly path: string) {
    try {
      this.#fd = fs.openSync(path, readFlags)
      const stat = fs.fstatSync(this.#fd)
      if (!stat.isFile()) throw new SmoeError('ERR_SMOE_FILE_READ', `${path} is not a regular file`)
      this.size = stat.size
    } catch (error) {
      this.close()
      throw fileError(path, error)
    }
  }

  read(offset: number, length: number): Uint8Array {
    if (this.#fd === undefined)
      throw new SmoeError('ERR_SMOE_DISPOSED', `${this.path} was read after close()`)
    const bytes = new Uint8Array(length)
    let done = 0
    while (done < length) {
      const got = readSome(this.path, this.#fd, bytes, done, offset + done)
      if (got === 0) throw new SmoeError('ERR_SMOE_FILE_CHANGED', `${this.path} shrank while it was read`)
      done += got
    }
    return bytes
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd)
    this.#fd = undefined
  }
}

function readSome(path: string, fd: number, bytes: Uint8Array, done: number, offset: number): number {
  try {
    return fs.readSync(fd, bytes, done, bytes.length - done, offset)
  } catch (error) {
    throw fileError(path, error)
  }
}

/** An error of fs as this package's: ERR_SMOE_FILE_NOT_FOUND or ERR_SMOE_FILE_READ, with the path. */
export function fileError(path: string, error: unknown): SmoeError {
  if (error instanceof SmoeError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new SmoeError('ERR_SMOE_FILE_NOT_FOUND', `${path} does not exist`, { cause: error })
  }
  return new SmoeError('ERR_SMOE_FILE_READ', `${path} cannot be read: ${message}`, { cause: error })
}

/** Most bytes of a JSON file that is read whole (index, config): far above any real one. */
const jsonLimit = 256 * 1024 * 1024

/** Parses dir/name; undefined when it does not exist. `code` is that of a file that is not JSON. */
export function readJson(
  dir: string,
  name: string,
  code: 'ERR_SMOE_INVALID_CONFIG' | 'ERR_SMOE_INVALID_SAFETENSORS' | 'ERR_SMOE_TOKENIZER_UNAVAILABLE',
): unknown {
  const file = path.join(dir, name)
  let source: FileSource
  try {
    source = new FileSource(file)
  } catch (error) {
    if ((error as SmoeError).code === 'ERR_SMOE_FILE_NOT_FOUND') return undefined
    throw error
  }
  try {
    if (source.size > jsonLimit) throw new SmoeError(code, `${file} is too large: ${source.size} bytes`)
    const text = new TextDecoder('utf-8', { fatal: true }).decode(source.read(0, source.size))
    return JSON.parse(text) as unknown
  } catch (error) {
    if (error instanceof SmoeError) throw error
    // No cause: the parser's message quotes the file, which may be any that a link in the folder points to.
    throw new SmoeError(code, `${file} is not JSON: ${jsonFault(error)}`)
  } finally {
    source.close()
  }
}
