import fs from 'node:fs'
import os from 'node:os'

// What the operating system says of this machine. Every reader answers null where the system has no such file.

function readText(file: string): string | null {
  try {
    return fs.readFileSync(file, 'utf8').trim()
  } catch {
    return null
  }
}

/** CPUs that the control group of a container allows, from its quota over its period. */
export function cpuQuota(): number | null {
  const [quota, period] = (readText('/sys/fs/cgroup/cpu.max') ?? 'max').split(/\s+/)
  return quota === 'max' || !period ? null : Number(quota) / Number(period)
}

/** The memory limit of the control group in bytes. */
export function memoryLimit(): number | null {
  const limit = readText('/sys/fs/cgroup/memory.max')
  return limit === null || limit === 'max' ? null : Number(limit)
}

/** Memory that can be had without swapping: on Linux more than what is free, because file pages count. */
export function availableMemory(): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readText('/proc/meminfo') ?? '')
  return line ? Number(line[1]) * 1024 : os.freemem()
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
