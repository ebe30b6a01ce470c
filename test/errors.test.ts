import fs from 'node:fs'
import path from 'node:path'
import { SmoeError, errorCodes } from '../lib'
import { describe as show, fromNative, rangeError, typeError } from '../lib/errors'

test('the codes are those of native/core/error_codes.def, in order', () => {
  const def = fs.readFileSync(path.join(__dirname, '..', 'native', 'core', 'error_codes.def'), 'utf8')
  const codes = [...def.matchAll(/^SMOE_ERROR\(\w+, "(\w+)"\)/gm)].map((match) => match[1])
  expect(codes.length).toBeGreaterThan(20)
  expect([...errorCodes]).toEqual(codes)
})

test('messages name the argument, what was expected and what came', () => {
  expect(typeError('shape', 'an array', 3).message).toBe('shape must be an array, got 3')
  expect(typeError('x', 'a number', 'y'.repeat(99)).message).toBe(
    `x must be a number, got '${'y'.repeat(57)}...'`,
  )
  expect(rangeError('k', 'at most 4', [1, 2]).message).toBe('k must be at most 4, got [1, 2]')
  expect(show(new Float32Array(3))).toBe('Float32Array of length 3')
  expect(show(new Map())).toBe('an instance of Map')
  expect(show(Object.create(null))).toBe('an instance of object')
  expect(show(Array(99).fill(0))).toBe('an array of 99')
})

test('native errors become the three classes; a cancelled call gives the signal its say', () => {
  const native = (code: string) => Object.assign(new Error('why'), { code })
  expect(fromNative(native('ERR_SMOE_INVALID_TYPE'))).toBeInstanceOf(TypeError)
  expect(fromNative(native('ERR_SMOE_INVALID_ARGUMENT'))).toBeInstanceOf(RangeError)
  const other = fromNative(native('ERR_SMOE_OUT_OF_MEMORY')) as SmoeError
  expect(other).toBeInstanceOf(SmoeError)
  expect(other).toMatchObject({ code: 'ERR_SMOE_OUT_OF_MEMORY', message: 'why', name: 'SmoeError' })
  const reason = { any: 'value' }
  expect(fromNative(native('ERR_SMOE_CANCELLED'), AbortSignal.abort(reason))).toBe(reason)
  const foreign = new Error('not ours')
  expect(fromNative(foreign)).toBe(foreign)
})
