import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { SmoeError, rangeError } from '../errors'

const exists = (file: string): boolean => fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined

/** Whether the folder is this call's: another run may need the same one at this moment. */
function makeFolder(folder: string): boolean {
  try {
    fs.mkdirSync(folder)
    return true
  } catch (error) {
    if (fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return false
    throw error
  }
}

/** Gives errors of the file system the code for writing. */
export function writing<T>(what: string, write: () => T): T {
  try {
    return write()
  } catch (error) {
    throw new SmoeError('ERR_SMOE_FILE_WRITE', `cannot ${what}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

/** The absolute path of a folder that is to be written: nothing may be there, not even a link that leads nowhere. */
export function checkOutputFolder(name: string, dir: string): string {
  if (dir === '') throw rangeError(name, 'the path of a folder', dir)
  const absolute = path.resolve(dir)
  if (writing(`write ${dir}`, () => exists(absolute)))
    throw new SmoeError('ERR_SMOE_FILE_WRITE', `${dir} exists already`)
  return absolute
}

/** A folder that is filled beside its place under a temporary name, and then gets its own; or leaves nothing. */
export class OutputFolder {
  readonly temporary: string
  readonly #made: string[] = []

  /** @throws SmoeError ERR_SMOE_FILE_WRITE where no folder can be made */
  constructor(private readonly dir: string) {
    this.temporary = `${dir}.${randomBytes(6).toString('hex')}.tmp`
    // One by one: a recursive mkdir of Node never returns in /proc, which says of new folders that their parent is missing.
    const missing = [this.temporary]
    for (let at = path.dirname(dir); !fs.existsSync(at) && at !== path.dirname(at); at = path.dirname(at))
      missing.unshift(at)
    try {
      for (const folder of missing) {
        if (writing(`make ${folder}`, () => makeFolder(folder))) this.#made.unshift(folder)
      }
    } catch (error) {
      this.discard()
      throw error
    }
  }

  /** Gives the folder its name. */
  finish(): void {
    writing(`write ${this.dir}`, () => fs.renameSync(this.temporary, this.dir))
  }

  /** Removes what was made, as far as that is possible: what went wrong before is the error to report. */
  discard(): void {
    try {
      fs.rmSync(this.temporary, { recursive: true, force: true })
      for (const folder of this.#made) if (folder !== this.temporary) fs.rmdirSync(folder) // only empty ones
    } catch {
      // It stays.
    }
  }
}
