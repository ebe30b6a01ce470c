import fs from 'node:fs'
import path from 'node:path'
import { writing } from '../prepare/output_folder'
import { usageError } from './session'

function kindOf(stat: fs.Stats): string {
  if (stat.isDirectory()) return 'a folder'
  if (stat.isSymbolicLink()) return 'a symbolic link'
  if (stat.isFIFO()) return 'a named pipe'
  return stat.isSocket() ? 'a socket' : 'a device'
}

/**
 * Refuses, before any work, a file to write that is there already (with `force` all but plain files: those alone are
 * surely what a rename should replace), or that has no folder that can be written.
 */
export function checkOutFile(file: string, force: boolean): void {
  if (file === '' || file.endsWith('/')) throw usageError(`--out must name a file, got '${file}'`)
  const there = writing(`write ${file}`, () => fs.lstatSync(file, { throwIfNoEntry: false }))
  if (there !== undefined && !there.isFile())
    throw usageError(`--out: ${file} is ${kindOf(there)}, which is never replaced`)
  if (there !== undefined && !force) throw usageError(`--out: ${file} exists already; --force replaces it`)
  // With the separator, a folder that is none is refused too.
  const folder = `${path.dirname(file)}${path.sep}`
  writing(`write ${file}`, () => fs.accessSync(folder, fs.constants.W_OK | fs.constants.X_OK))
}
