import { InvalidArgumentError } from 'commander'
import { type Device, isDevice } from '../device'

// Parsers of option values. What they refuse is a usage error: exit code 2.

function integer(text: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || text.trim() === '' || value < least || value > most) {
    const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`
    throw new InvalidArgumentError(`Expected a whole number ${range}.`)
  }
  return value
}

export const positiveInteger = (text: string): number => integer(text, 1)
export const nonNegativeInteger = (text: string): number => integer(text, 0)

export const expertBits = (text: string): number => integer(text, 2, 8)
// The ranges of the options of generate() and quantizeCheckpoint() that they stand for.
export const seed = (text: string): number => integer(text, 0, 2 ** 32 - 1)
export const topK = (text: string): number => integer(text, 0, 2 ** 31 - 1)
export const planes = (text: string): number => integer(text, 0, 6)

export function device(text: string): Device {
  if (!isDevice(text)) throw new InvalidArgumentError('Expected cpu, auto, cuda or cuda:N.')
  return text
}

export function nonNegativeNumber(text: string): number {
  const value = Number(text)
  if (!Number.isFinite(value) || text.trim() === '' || value < 0) {
    throw new InvalidArgumentError('Expected a number of at least 0.')
  }
  return value
}

export function probability(text: string): number {
  const value = Number(text)
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError('Expected a number above 0 and up to 1.')
  return value
}

export const tokenIds = (text: string): number[] => text.split(',').map((part) => integer(part, 0))
export const positiveIntegers = (text: string): number[] => text.split(',').map((part) => integer(part, 1))
