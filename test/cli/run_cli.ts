import { spawn } from 'node:child_process'
import path from 'node:path'

export const root = path.join(__dirname, '..', '..')
export const sampleModel = path.join(root, 'examples', 'momentum-wikitext')
const main = path.join(root, 'dist', 'cli', 'main.js')

export interface CliResult {
  code: number | null
  stdout: string
  stderr: string
}

/** Runs the built command line in a process of its own. */
export function runCli(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  interruptAfter?: RegExp,
): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [main, ...args], { cwd: root, env: { ...process.env, ...env } })
    let stdout = ''
    let stderr = ''
    let interrupted = false
    child.stdout.on('data', (part) => {
      stdout += String(part)
      if (!interruptAfter?.test(stdout) || interrupted) return
      interrupted = child.kill('SIGINT') // once: a second one ends the process at once
    })
    child.stderr.on('data', (part) => (stderr += String(part)))
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, stdout, stderr }))
  })
}
