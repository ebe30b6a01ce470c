import fc from 'fast-check'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { expectFailure } from '../helpers/errors'
import { memorySource, safetensors } from '../helpers/safetensors'

const read = (bytes: Uint8Array) => readSafetensorsHeader(memorySource(bytes), 'model.safetensors')
const tensor = (begin: number, end: number, shape = [(end - begin) / 4], dtype = 'F32') => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})
const data = new Uint8Array(16)

function withLength(length: bigint, rest = '{}'): Uint8Array {
  const bytes = safetensors(rest)
  new DataView(bytes.buffer).setBigUint64(0, length, true)
  return bytes
}

test('reads a well-formed file, padding and metadata included', () => {
  const header = {
    __metadata__: { format: 'pt' },
    b: tensor(8, 16, [2, 1]),
    a: tensor(0, 8),
    empty: tensor(8, 8, [0, 7]),
  }
  const { tensors, metadata } = read(safetensors(JSON.stringify(header) + '   ', data))
  const start = 8 + JSON.stringify(header).length + 3
  expect(metadata.get('format')).toBe('pt')
  expect(tensors.get('b')).toEqual({ name: 'b', dtype: 'F32', shape: [2, 1], offset: start + 8, bytes: 8 })
  expect(tensors.get('empty')!.bytes).toBe(0)
})

test('names such as __proto__ are ordinary tensors', () => {
  const { tensors } = read(
    safetensors('{"__proto__":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', data),
  )
  expect(tensors.get('__proto__')!.bytes).toBe(16)
  expect(({} as Record<string, unknown>).dtype).toBeUndefined()
})

const huge = '9'.repeat(400)
const cases: [string, Uint8Array, RegExp][] = [
  ['empty file', new Uint8Array(0), /0 bytes are too few/],
  ['half a length', new Uint8Array(7), /7 bytes are too few/],
  ['header longer than the file', withLength(3n), /does not fit a file of 10: it is truncated/],
  ['header above the limit', withLength(100_000_001n), /longer than the 100000000 bytes allowed/],
  ['header length of 2^64 - 1', withLength(0xffff_ffff_ffff_ffffn), /longer than the 100000000 bytes/],
  ['header length that is negative when signed', withLength(1n << 63n), /is longer/],
  ['not JSON', safetensors('{"a":'), /not JSON/],
  ['NaN in JSON', safetensors('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'), /not JSON/],
  ['invalid UTF-8', withRaw([0x7b, 0xff, 0x7d]), /not JSON/],
  ['byte order mark', withRaw([0xef, 0xbb, 0xbf, 0x7b, 0x7d]), /not JSON/],
  ['array header', safetensors([]), /must be a JSON object, got an array/],
  ['null header', safetensors('null'), /must be a JSON object, got null/],
  ['entry that is a number', safetensors({ a: 1 }), /tensor 'a' must be an object, got 1/],
  ['entry without fields', safetensors({ a: {} }), /unknown dtype undefined/],
  ['unknown field', safetensors({ a: { ...tensor(0, 16), more: 1 } }, data), /unknown field 'more'/],
  ['unknown dtype', safetensors({ a: tensor(0, 16, [4], 'F128') }, data), /unknown dtype 'F128'/],
  ['dtype of Object.prototype', safetensors({ a: tensor(0, 16, [4], 'toString') }, data), /unknown dtype/],
  ['negative size', safetensors({ a: tensor(0, 16, [-4]) }, data), /shape of non-negative integers/],
  ['fractional size', safetensors({ a: tensor(0, 16, [4.5]) }, data), /shape of non-negative integers/],
  ['size above 2^53', safetensors({ a: tensor(0, 16, [2 ** 60]) }, data), /shape of non-negative integers/],
  [
    'size that parses to infinity',
    safetensors(`{"a":{"dtype":"F32","shape":[${huge}],"data_offsets":[0,16]}}`, data),
    /shape of non-negative integers/,
  ],
  [
    'product that wraps 64 bits',
    safetensors({ a: tensor(0, 16, [2 ** 32, 2 ** 32, 4]) }, data),
    /too large to count/,
  ],
  [
    'product that wraps to the size',
    safetensors({ a: tensor(0, 16, [2 ** 52, 2 ** 12]) }, data),
    /too large to count/,
  ],
  [
    'shape that is a string',
    safetensors({ a: { ...tensor(0, 16), shape: '4' } }, data),
    /shape of non-negative/,
  ],
  [
    'one offset',
    safetensors({ a: { ...tensor(0, 16), data_offsets: [0] } }, data),
    /two non-negative integers/,
  ],
  ['negative offset', safetensors({ a: tensor(-4, 12) }, data), /two non-negative integers/],
  ['fractional offset', safetensors({ a: tensor(0.5, 16.5) }, data), /two non-negative integers/],
  ['offsets reversed', safetensors({ a: tensor(16, 0, [4]) }, data), /lies outside/],
  ['end beyond the file', safetensors({ a: tensor(0, 20) }, data), /lies outside the 16 bytes of data/],
  ['end at 2^53', safetensors({ a: tensor(0, 2 ** 53 - 1, [4]) }, data), /lies outside/],
  ['size that lies', safetensors({ a: tensor(0, 16, [3]) }, data), /needs 12 bytes, data_offsets give 16/],
  ['dtype narrower than its bytes', safetensors({ a: tensor(0, 16, [4], 'BF16') }, data), /needs 8 bytes/],
  ['half a byte', safetensors({ a: tensor(0, 2, [3], 'F4') }, data.slice(0, 2)), /needs 1.5 bytes/],
  ['overlap', safetensors({ a: tensor(0, 12), b: tensor(8, 16) }, data), /tensor 'b' overlaps/],
  ['the same bytes twice', safetensors({ a: tensor(0, 16), b: tensor(0, 16) }, data), /overlaps/],
  ['hole', safetensors({ a: tensor(0, 4), b: tensor(8, 16) }, data), /4 unused bytes lie before tensor 'b'/],
  ['bytes after the last tensor', safetensors({ a: tensor(0, 12) }, data), /4 unused bytes lie after/],
  [
    'the same name twice',
    safetensors(`{"a":${JSON.stringify(tensor(0, 16))},"a":${JSON.stringify(tensor(0, 16))}}`, data),
    /key 'a' twice/,
  ],
  [
    'the same name twice, once escaped',
    safetensors(`{"a":${JSON.stringify(tensor(0, 16))},"\\u0061":${JSON.stringify(tensor(0, 16))}}`, data),
    /key 'a' twice/,
  ],
  [
    'a field twice',
    safetensors('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"shape":[2]}}', data),
    /key 'shape' twice/,
  ],
  [
    'metadata that is not strings',
    safetensors({ __metadata__: { a: 1 } }),
    /__metadata__.a must be a string, got 1/,
  ],
  ['metadata that is a list', safetensors({ __metadata__: [] }), /__metadata__ must be an object/],
]

function withRaw(header: number[]): Uint8Array {
  const bytes = safetensors('')
  const file = new Uint8Array(bytes.length + header.length)
  file.set(bytes)
  file.set(header, 8)
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true)
  return file
}

test.each(cases)('refuses: %s', async (_, bytes, message) => {
  await expectFailure(() => read(bytes), 'ERR_SMOE_INVALID_SAFETENSORS', message)
})

test('a key inside a string is no duplicate', () => {
  const header = { 'a":{"dtype"': tensor(0, 8), a: tensor(8, 16) }
  expect([...read(safetensors(header, data)).tensors.keys()].sort()).toEqual(Object.keys(header).sort())
})

test('a changed byte never gives anything but a correct header or the one code', () => {
  const file = safetensors({ __metadata__: { a: 'b' }, x: tensor(0, 8, [2]), y: tensor(8, 16, [1, 2]) }, data)
  fc.assert(
    fc.property(fc.nat(file.length - 1), fc.nat(255), fc.nat(file.length), (position, value, length) => {
      const bytes = file.slice(0, length)
      if (position < length) bytes[position] = value
      try {
        let covered = 0
        for (const entry of read(bytes).tensors.values()) covered += entry.bytes
        const start = Number(new DataView(bytes.buffer).getBigUint64(0, true)) + 8
        expect(covered).toBe(bytes.length - start)
      } catch (error) {
        if ((error as { code?: string }).code !== 'ERR_SMOE_INVALID_SAFETENSORS') throw error
      }
    }),
    { numRuns: 3000 },
  )
})
