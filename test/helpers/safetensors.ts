import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'

/** A safetensors file from a header (object or raw text) and its data. */
export function safetensors(header: unknown, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const file = new Uint8Array(8 + text.length + data.length)
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true)
  file.set(text, 8)
  file.set(data, 8 + text.length)
  return file
}

/** Bytes in memory, as a file. */
export function memorySource(bytes: Uint8Array) {
  return {
    size: bytes.length,
    read: (offset: number, length: number) => bytes.slice(offset, offset + length),
    close: () => undefined,
  }
}

/** All tensors of a reference file, f32 and i32. */
export function readReference(file: string): Map<string, Float32Array | Int32Array> {
  const source = new FileSource(file)
  try {
    const result = new Map<string, Float32Array | Int32Array>()
    for (const entry of readSafetensorsHeader(source, file).tensors.values()) {
      const { buffer } = source.read(entry.offset, entry.bytes)
      result.set(entry.name, entry.dtype === 'I32' ? new Int32Array(buffer) : new Float32Array(buffer))
    }
    return result
  } finally {
    source.close()
  }
}

/** A folder for one test file, removed afterwards. */
export function temporaryFolder(): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-test-'))
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
  return folder
}
