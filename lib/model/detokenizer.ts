import type { Tokenizer } from './tokenizer'

/** Most tokens a held-back character may span before its pieces are given out as they are. */
const maxHeld = 16

/**
 * Text of a growing list of tokens, piece by piece. A character whose bytes are split over tokens is held back until
 * its last token comes, and each piece is decoded together with the one before it, because decoders treat the first
 * token of a text specially (leading spaces).
 */
export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, 'decodeRaw'>
  #context: number[] = []
  #held: number[] = []

  constructor(tokenizer: Pick<Tokenizer, 'decodeRaw'>) {
    this.#tokenizer = tokenizer
  }

  /** The text that `id` completes; '' while a character is incomplete. */
  push(id: number): string {
    this.#held.push(id)
    const before = this.#context.length === 0 ? '' : this.#tokenizer.decodeRaw(this.#context)
    const text = this.#tokenizer.decodeRaw([...this.#context, ...this.#held])
    // U+FFFD at the end stands for bytes that do not make a character yet.
    if (text.endsWith('\ufffd') && this.#held.length < maxHeld) return ''
    this.#context = this.#held
    this.#held = []
    return text.slice(before.length)
  }
}
