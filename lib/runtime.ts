import { guarded, native } from './native'
import { checkInteger } from './validate'

/** What runtimeInfo() tells. */
export interface RuntimeInfo {
  /** the active instruction set: portable, avx2, avx512 or avx512bf16 */
  isa: string
  /** those that this CPU has, the best one last */
  usableIsas: string[]
  /** of the pool that all calls share */
  threads: number
  maxThreads: number
  build: { compiler: string; type: string; napi: number }
  /** bytes of scratch that is kept between calls */
  workspaceBytes: number
  /** calls that wait or run */
  pendingCalls: number
}

/** The active instruction set, threads, build and workspaces of the native addon. */
export function runtimeInfo(): RuntimeInfo {
  return guarded(() => native().runtimeInfo())
}

/** Threads used from the next call on, 1..runtimeInfo().maxThreads; results do not depend on it. */
export function setThreads(threads: number): void {
  checkInteger('threads', threads, 1, runtimeInfo().maxThreads)
  guarded(() => native().setThreads(threads))
}
