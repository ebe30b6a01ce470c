/**
 * The first key that an object of a JSON text holds twice, or undefined. JSON.parse keeps the last one silently, which
 * lets a file show one thing to one reader and another to the next.
 * @param text valid JSON: parse it first
 */
export function findDuplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [] // one per open bracket: keys of an object, undefined for an array
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/gs
  for (const match of text.matchAll(token)) {
    const [found, colon] = match
    if (found === '{') open.push(new Set())
    else if (found === '[') open.push(undefined)
    else if (found === '}' || found === ']') open.pop()
    else if (colon !== undefined) {
      const key = JSON.parse(found.slice(0, found.length - colon.length)) as string
      const keys = open.at(-1)!
      if (keys.has(key)) return key
      keys.add(key)
    }
  }
  return undefined
}
