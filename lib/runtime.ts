import type { RuntimeInfo } from '../binding'
import { guarded, native } from './native'
import { checkInteger } from './validate'

/** The active instruction set, threads, build and workspaces of the native addon. */
export function runtimeInfo(): RuntimeInfo {
  return guarded(() => native().runtimeInfo())
}

/** Threads used from the next call on, 1..runtimeInfo().maxThreads; results do not depend on it. */
export function setThreads(threads: number): void {
  checkInteger('threads', threads, 1, runtimeInfo().maxThreads)
  guarded(() => native().setThreads(threads))
}
