/**
 * What is wrong with a text that JSON.parse or TextDecoder refused, without a character of it: the parser's own messages
 * quote the text, and a checkpoint made by a stranger could have any file of the machine read as JSON.
 */
export function jsonFault(error: unknown): string {
  const { name, message } = error as Error
  if (name !== 'SyntaxError') return 'it is not UTF-8'
  if (message === 'Unexpected end of JSON input') return 'it ends too early'
  // Up to the first quotation mark the words are the parser's: what comes after one may be the text's.
  const place = /^[^"]* in JSON at position (\d+)/.exec(message)
  return place === null ? 'its syntax is wrong' : `its syntax is wrong at character ${place[1]}`
}
