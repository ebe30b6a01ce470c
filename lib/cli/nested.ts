import type { MoePlan } from '../checkpoint/architecture'
import { Checkpoint } from '../checkpoint/checkpoint'
import { readArchitecture } from '../checkpoint/describe'
import { openCheckpoint } from '../checkpoint/open'

const stored = /^layers\.\d+\.experts\.[a-z]+\.wn\.ids$/ // canonicalStem() of 'wn'

/** Whether a model will have bit-nested experts once it is loaded in this format; from the headers alone. */
export function hasNestedExperts(dir: string, format: string): boolean {
  const architecture = readArchitecture(dir)
  const checkpoint = openCheckpoint(dir, architecture, (name) => Checkpoint.openHeaders(name))
  try {
    if ([...checkpoint.tensors.keys()].some((name) => stored.test(name))) return true
    if (format !== 'wn') return false
    // Loading brings into 'wn' what is not stored quantized.
    const { quantized } = checkpoint
    const plain = ({ width, experts, expert }: MoePlan) =>
      Array.from({ length: experts }, (_, i) => expert(i).up).some(
        (name) => quantized?.find(name, [width, architecture.hidden]) === undefined,
      )
    return architecture.layers.some(({ moe }) => moe !== undefined && plain(moe))
  } finally {
    checkpoint.close()
  }
}
