import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

// What the operating system says of this machine. Every reader answers null where the system has no such file.

function readText(file: string): string | null {
  try {
    return fs.readFileSync(file, 'utf8').trim()
  } catch {
    return null
  }
}

/**
 * Folders of this process's control group and of those above it, each of which limits it too: of the unified hierarchy,
 * or of a controller that still has one of its own (version 1). In a container the path can be one of the host's, of which
 * only the top is there, or lead out of what is mounted.
 */
function groupFolders(root: string, controller: string): string[] {
  const top = path.join(root, 'sys/fs/cgroup', controller)
  for (const line of (readText(path.join(root, 'proc/self/cgroup')) ?? '').split('\n')) {
    const [, names = '', group = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (group === '' || !names.split(',').includes(controller)) continue
    const parts = group.split('/').filter((part) => part !== '')
    if (parts.includes('..')) return [top]
    return Array.from({ length: parts.length + 1 }, (_, above) =>
      path.join(top, ...parts.slice(0, parts.length - above)),
    )
  }
  return [top]
}

const least = (values: number[]): number | null => (values.length === 0 ? null : Math.min(...values))

/** CPUs that the control group of a container allows, from its quota over its period. */
export function cpuQuota(root = '/'): number | null {
  return least(
    groupFolders(root, '').flatMap((dir) => {
      const [quota, period] = (readText(path.join(dir, 'cpu.max')) ?? 'max').split(/\s+/)
      return quota === 'max' || !period ? [] : [Number(quota) / Number(period)]
    }),
  )
}

/** Version 1 writes the largest multiple of a page in 63 bits for no limit. */
const unlimited = 2 ** 62

/** The control groups that limit memory: how many bytes, and how many of those can still be had. */
function memoryGroups(root: string): { limit: number; left: number }[] {
  const read = (dir: string, limitFile: string, usageFile: string, pages: RegExp) => {
    const limit = Number(readText(path.join(dir, limitFile)) ?? NaN) // NaN: 'max', too
    if (!(limit < unlimited)) return []
    const used = Number(readText(path.join(dir, usageFile)) ?? 0)
    const stat = (readText(path.join(dir, 'memory.stat')) ?? '').matchAll(pages)
    const files = [...stat].reduce((sum, [, bytes]) => sum + Number(bytes), 0)
    return [{ limit, left: Math.max(0, limit - Math.max(0, used - files)) }]
  }
  return [
    ...groupFolders(root, '').flatMap((dir) =>
      read(dir, 'memory.max', 'memory.current', /^(?:in)?active_file (\d+)$/gm),
    ),
    ...groupFolders(root, 'memory').flatMap((dir) =>
      read(dir, 'memory.limit_in_bytes', 'memory.usage_in_bytes', /^total_(?:in)?active_file (\d+)$/gm),
    ),
  ]
}

/** The memory limit of the control groups in bytes. */
export function memoryLimit(root = '/'): number | null {
  return least(memoryGroups(root).map(({ limit }) => limit))
}

/**
 * Memory that can be had without swapping, on this machine and within the limits of a container: more than what is free,
 * because file pages give way.
 */
export function availableMemory(root = '/'): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readText(path.join(root, 'proc/meminfo')) ?? '')
  const machine = line ? Number(line[1]) * 1024 : os.freemem()
  return Math.min(machine, ...memoryGroups(root).map(({ left }) => left))
}

/** 'always', 'madvise' or 'never'. */
export function transparentHugePages(): string | null {
  return /\[(\w+)\]/.exec(readText('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1] ?? null
}

/** The instruction set extensions among those that choose a kernel table, as the kernel lists them. */
export function cpuFeatures(): string[] | null {
  const flags = /^flags\s*:\s*(.*)$/m.exec(readText('/proc/cpuinfo') ?? '')?.[1]?.split(' ')
  const wanted = /^(sse4_2|avx2|fma|f16c|avx512(f|bw|dq|vl|_vnni|_bf16)|amx_(bf16|tile|int8))$/
  return flags?.filter((flag) => wanted.test(flag)) ?? null
}

/** Bytes of the last-level cache that the first CPU sees. */
export function lastLevelCache(): number | null {
  for (const index of [4, 3, 2]) {
    const match = /^(\d+)K$/.exec(readText(`/sys/devices/system/cpu/cpu0/cache/index${index}/size`) ?? '')
    if (match) return Number(match[1]) * 1024
  }
  return null
}

export const cpuModel = (): string => os.cpus()[0]?.model.trim() ?? 'unknown'
