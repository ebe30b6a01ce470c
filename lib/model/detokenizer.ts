import type { Tokenizer } from './tokenizer'

/** Most tokens a held-back character may span before its pieces are given out as they are. */
const maxHeld = 16

/** Enough of the prompt that a decoder no longer takes the next token for the first of a text. */
const contextTokens = 4

/**
 * Text of a growing list of tokens, piece by piece. A character whose bytes are split over tokens is held back until
 * its last token comes, and each piece is decoded together with the one before it, because decoders treat the first
 * token of a text specially (leading spaces).
 */
export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, 'decodeRaw'>
  #context: number[] = []
  #held: number[] = []

  /** @param prompt tokens that come before the first pushed one: the text continues theirs */
  constructor(tokenizer: Pick<Tokenizer, 'decodeRaw'>, prompt: ArrayLike<number> = []) {
    this.#tokenizer = tokenizer
    const last = Array.from(prompt).slice(-contextTokens)
    if (!tokenizer.decodeRaw(last).endsWith('\ufffd')) this.#context = last
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
