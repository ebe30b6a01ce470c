import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { nativeFile } from '../../lib/native'
import './helpers'

/** Runs one scenario in a process of its own; it must end by itself with this status and say nothing on stderr. */
function scenario(name: string, expected: { status: number; stdout: string }) {
  const file = path.join(__dirname, 'scenarios', `${name}.cjs`)
  const child = spawnSync(process.execPath, [file], {
    encoding: 'utf8',
    timeout: 240_000,
    env: { ...process.env, SMOE_NATIVE: nativeFile() },
  })
  expect({ status: child.status, signal: child.signal, stdout: child.stdout, stderr: child.stderr }).toEqual({
    ...expected,
    signal: null,
    stderr: '',
  })
}

describe('life cycle', () => {
  test('a process with idle objects ends by itself', () =>
    scenario('idle-exit', { status: 0, stdout: 'end\n' }))
  test('a process waits for its last call', () => scenario('last-call', { status: 0, stdout: 'settled\n' }))
  test(
    'process.exit() in the middle of calls',
    () => scenario('exit-mid-op', { status: 7, stdout: '' }),
    300_000,
  )
  test(
    'worker.terminate() in the middle of calls, 20 times',
    () => scenario('worker-terminate', { status: 0, stdout: 'end\n' }),
    300_000,
  )
  test(
    'process.exit() inside workers in the middle of calls',
    () => scenario('worker-exit', { status: 0, stdout: 'end\n' }),
    300_000,
  )
  test(
    'two workers and the main thread at once',
    () => scenario('two-workers', { status: 0, stdout: 'equal\n' }),
    300_000,
  )
  test(
    'objects that nobody disposes are collected',
    () => scenario('gc-pressure', { status: 0, stdout: 'end\n' }),
    300_000,
  )
  test(
    'dispose() gives memory back at once',
    () => scenario('dispose-loop', { status: 0, stdout: 'end\n' }),
    300_000,
  )
})
