import { InvalidArgumentError } from 'commander'

// Parsers of option values. What they refuse is a usage error: exit code 2.

function integer(text: string, least: number): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || text.trim() === '' || value < least) {
    throw new InvalidArgumentError(`Expected a whole number of at least ${least}.`)
  }
  return value
}

export const positiveInteger = (text: string): number => integer(text, 1)
export const nonNegativeInteger = (text: string): number => integer(text, 0)

export function expertBits(text: string): number {
  const bits = integer(text, 2)
  if (bits > 8) throw new InvalidArgumentError('Expected 2 to 8 bits.')
  return bits
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
