import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

// A package as npm unpacks it, without what only a checkout has. Compilers and cmake-js are stubs.

const root = path.join(__dirname, '..', '..')
export const addon = path.join(root, 'build', 'Release', 'smoe.node')
export const plugin = 'smoe_cuda.so'
export const platform = `${process.platform}-${process.arch}`

/** Notes its arguments, empties the folder that it is to build in, and makes what STUB_* say: the addon, a file that is none. */
const cmakeJs = `
  const fs = require('node:fs')
  const path = require('node:path')
  const value = (flag) => process.argv[process.argv.indexOf(flag) + 1]
  const work = process.argv.includes('-O') ? value('-O') : path.join(value('-d'), 'build')
  fs.appendFileSync(path.join(value('-d'), 'builds.txt'), process.argv.slice(2).join(' ') + '\\n')
  fs.rmSync(work, { recursive: true, force: true })
  if (process.env.STUB_FAILS) process.exit(1)
  fs.mkdirSync(path.join(work, 'Release'), { recursive: true })
  const node = path.join(work, 'Release', 'smoe.node')
  if (process.env.STUB_BREAKS) fs.writeFileSync(node, 'no library')
  else fs.copyFileSync(${JSON.stringify(addon)}, node)
  if (process.argv.includes('--CDSMOE_CUDA=ON')) fs.writeFileSync(path.join(work, 'Release', '${plugin}'), 'built')`

export class Package {
  readonly work = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-install-'))
  readonly dir = path.join(this.work, 'node_modules', 'smoe')
  readonly bin = path.join(this.work, 'bin')

  constructor() {
    const modules = path.join(this.work, 'node_modules')
    for (const name of ['node-gyp-build', 'commander', '@huggingface']) {
      this.make(path.join(modules, name))
      fs.rmdirSync(path.join(modules, name))
      fs.symlinkSync(path.join(root, 'node_modules', name), path.join(modules, name))
    }
    this.make(path.join(modules, 'cmake-js', 'bin'), this.dir, this.bin)
    fs.writeFileSync(path.join(modules, 'cmake-js', 'package.json'), '{ "name": "cmake-js" }')
    fs.writeFileSync(path.join(modules, 'cmake-js', 'bin', 'cmake-js'), cmakeJs)
    fs.cpSync(path.join(root, 'dist'), path.join(this.dir, 'dist'), { recursive: true })
    for (const file of ['package.json', path.join('scripts', 'install.cjs')])
      this.copy(path.join(root, file), file)
    for (const tool of ['cmake', 'c++', 'ninja']) this.tool(path.join(this.bin, tool))
  }

  make(...folders: string[]): void {
    for (const folder of folders) fs.mkdirSync(folder, { recursive: true })
  }

  copy(from: string, to: string): void {
    this.make(path.dirname(path.join(this.dir, to)))
    fs.copyFileSync(from, path.join(this.dir, to))
  }

  write(to: string, text: string): void {
    this.make(path.dirname(path.join(this.dir, to)))
    fs.writeFileSync(path.join(this.dir, to), text)
  }

  /** The text of a file of the package, or null. */
  read(file: string): string | null {
    const full = path.join(this.dir, file)
    return fs.existsSync(full) ? fs.readFileSync(full, 'latin1') : null
  }

  /** A program that does nothing and succeeds. */
  tool(file: string): string {
    this.make(path.dirname(file))
    fs.writeFileSync(file, '#!/bin/sh\nexit 0\n', { mode: 0o755 })
    return file
  }

  /** Runs Node in the package with nothing else on PATH than the stubs, and no variables but these. */
  node(
    args: readonly string[],
    env: NodeJS.ProcessEnv = {},
  ): Promise<{ code: number | null; output: string }> {
    return new Promise((resolve, reject) => {
      const options = { cwd: this.work, env: { PATH: this.bin, INIT_CWD: this.work, ...env } }
      const child = spawn(process.execPath, args, options)
      let output = ''
      child.stdout.on('data', (part) => (output += String(part)))
      child.stderr.on('data', (part) => (output += String(part)))
      child.on('error', reject)
      child.on('close', (code) => resolve({ code, output }))
    })
  }

  install(env: NodeJS.ProcessEnv = {}) {
    return this.node([path.join(this.dir, 'scripts', 'install.cjs')], env)
  }

  remove(): void {
    fs.rmSync(this.work, { recursive: true })
  }
}
