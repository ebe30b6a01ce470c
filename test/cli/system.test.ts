import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { availableMemory, cpuQuota, memoryLimit } from '../../lib/cli/system'

const MiB = 2 ** 20
let root: string
beforeEach(() => (root = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-system-'))))
afterEach(() => fs.rmSync(root, { recursive: true }))

/** Files of a system with 1000 MiB available, by their paths. */
function system(files: Record<string, string | number>): void {
  const all = { 'proc/meminfo': `MemTotal: 9999999 kB\nMemAvailable:   ${1000 * 1024} kB\n`, ...files }
  for (const [name, text] of Object.entries(all)) {
    fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true })
    fs.writeFileSync(path.join(root, name), `${text}\n`)
  }
}

const seen = () => ({ limit: memoryLimit(root), available: availableMemory(root) })

test('no control groups, or none that limits: what the machine has', () => {
  system({})
  expect(seen()).toEqual({ limit: null, available: 1000 * MiB })
  system({
    'proc/self/cgroup': '0::/a',
    'sys/fs/cgroup/a/memory.max': 'max',
    'sys/fs/cgroup/a/cpu.max': 'max 100000',
  })
  expect(seen()).toEqual({ limit: null, available: 1000 * MiB })
  expect(cpuQuota(root)).toBeNull()
})

test('version 2: the limit of the own group, less what it uses other than for files', () => {
  system({
    'proc/self/cgroup': '0::/user/job',
    'sys/fs/cgroup/user/job/memory.max': 300 * MiB,
    'sys/fs/cgroup/user/job/memory.current': 200 * MiB,
    'sys/fs/cgroup/user/job/memory.stat': `anon 1\nactive_file ${30 * MiB}\ninactive_file ${50 * MiB}\ninactive_anon 7`,
    'sys/fs/cgroup/user/job/cpu.max': '150000 100000',
    'sys/fs/cgroup/other/memory.max': MiB,
  })
  expect(seen()).toEqual({ limit: 300 * MiB, available: 180 * MiB })
  expect(cpuQuota(root)).toBe(1.5)
})

test('a group above limits too, and where each has a limit the tighter one counts', () => {
  system({
    'proc/self/cgroup': '0::/user/job',
    'sys/fs/cgroup/user/job/memory.max': 300 * MiB,
    'sys/fs/cgroup/user/job/memory.current': 10 * MiB,
    'sys/fs/cgroup/user/memory.max': 400 * MiB,
    'sys/fs/cgroup/user/memory.current': 350 * MiB,
  })
  expect(seen()).toEqual({ limit: 300 * MiB, available: 50 * MiB })
})

test('a limit above what the machine has left does not add to it; one that is passed leaves nothing', () => {
  system({
    'proc/self/cgroup': '0::/',
    'sys/fs/cgroup/memory.max': 5000 * MiB,
    'sys/fs/cgroup/memory.current': 0,
  })
  expect(seen()).toEqual({ limit: 5000 * MiB, available: 1000 * MiB })
  system({ 'sys/fs/cgroup/memory.current': 6000 * MiB })
  expect(seen().available).toBe(0)
})

test.each(['0::/docker/0123', '0::/../../docker/0123'])(
  'in a container whose path is the host’s: %s',
  (group) => {
    system({
      'proc/self/cgroup': group,
      'sys/fs/cgroup/memory.max': 64 * MiB,
      'sys/fs/cgroup/memory.current': 4 * MiB,
    })
    expect(seen()).toEqual({ limit: 64 * MiB, available: 60 * MiB })
  },
)

test('version 1: the controller has a hierarchy of its own, and a number for no limit', () => {
  const groups = '5:devices:/\n4:hugetlb,memory:/job\n0::/elsewhere'
  system({
    'proc/self/cgroup': groups,
    'sys/fs/cgroup/memory/job/memory.limit_in_bytes': 128 * MiB,
    'sys/fs/cgroup/memory/job/memory.usage_in_bytes': 100 * MiB,
    'sys/fs/cgroup/memory/job/memory.stat': `inactive_file 5\ntotal_inactive_file ${20 * MiB}\ntotal_active_file ${MiB}`,
    'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
  })
  expect(seen()).toEqual({ limit: 128 * MiB, available: 49 * MiB })
  system({ 'sys/fs/cgroup/memory/job/memory.limit_in_bytes': '9223372036854771712' })
  expect(seen()).toEqual({ limit: null, available: 1000 * MiB })
})
