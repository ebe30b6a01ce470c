import os from 'node:os'
import type { Command } from 'commander'
import { devices } from '../device'
import { codeOf } from '../errors'
import { native, nativeFile, platformText } from '../native'
import { formatBytes, formatFields } from './format'
import { type Session, jsonOption, withSession } from './session'
import * as system from './system'
import { packageVersion } from './version'

/** Something to know or to do; a failure is what keeps the package from working. */
interface Finding {
  level: 'failure' | 'advice'
  what: string
  fix: string
}

function binaryReport() {
  try {
    const runtime = native().runtimeInfo()
    return { file: nativeFile() ?? null, error: null, code: null, runtime }
  } catch (error) {
    return { file: null, error: (error as Error).message, code: codeOf(error) ?? null, runtime: null }
  }
}

function isaReason(active: string, usable: readonly string[]): string {
  if (process.env['SMOE_ISA']) return 'SMOE_ISA asks for it'
  return active === usable.at(-1) ? 'the best that this CPU and system offer' : 'chosen by this process'
}

function collect() {
  const binary = binaryReport()
  const quota = system.cpuQuota()
  const memory = { total: os.totalmem(), available: system.availableMemory(), limit: system.memoryLimit() }
  const hugePages = system.transparentHugePages()
  const findings: Finding[] = []
  if (binary.error !== null) {
    findings.push({
      level: 'failure',
      what: `the native addon does not load (${binary.code ?? 'unknown'})`,
      fix: 'npm rebuild smoe --build-from-source, with CMake 3.22 and a C++17 compiler installed',
    })
  }
  if (hugePages === 'never') {
    findings.push({
      level: 'advice',
      what: 'transparent huge pages are off, which costs speed on large experts',
      fix: 'as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
    })
  }
  const threads = binary.runtime?.threads
  if (quota !== null && threads !== undefined && threads > Math.ceil(quota)) {
    findings.push({
      level: 'advice',
      what: `${threads} threads share a quota of ${quota} CPUs`,
      fix: `set SMOE_THREADS=${Math.max(1, Math.floor(quota))}`,
    })
  }
  return {
    version: packageVersion(),
    platform: platformText(),
    node: process.version,
    napi: process.versions.napi ?? null,
    cpu: {
      model: system.cpuModel(),
      count: os.availableParallelism(),
      quota,
      features: system.cpuFeatures(),
    },
    cache: system.lastLevelCache(),
    memory,
    hugePages,
    binary: {
      file: binary.file,
      error: binary.error,
      code: binary.code,
      build: binary.runtime?.build ?? null,
    },
    isa: binary.runtime && {
      active: binary.runtime.isa,
      why: isaReason(binary.runtime.isa, binary.runtime.usableIsas),
      usable: binary.runtime.usableIsas,
    },
    threads: binary.runtime && { active: binary.runtime.threads, max: binary.runtime.maxThreads },
    devices: devices(),
    findings,
    ok: !findings.some(({ level }) => level === 'failure'),
  }
}

function render(report: ReturnType<typeof collect>): string {
  const { cpu, memory, binary, isa, threads } = report
  const build = binary.build
    ? ` (${binary.build.compiler}, ${binary.build.type}, Node-API ${binary.build.napi})`
    : ''
  const fields: [string, string][] = [
    ['smoe', report.version],
    ['platform', report.platform],
    ['node', `${report.node}, Node-API ${report.napi ?? 'unknown'}`],
    ['cpu', `${cpu.model}, ${cpu.count} CPUs${cpu.quota === null ? '' : `, quota ${cpu.quota}`}`],
    ['cpu features', cpu.features?.join(' ') ?? 'unknown'],
    ['last-level cache', report.cache === null ? 'unknown' : formatBytes(report.cache)],
    ['memory', `${formatBytes(memory.available)} available of ${formatBytes(memory.total)}`],
    ['memory limit', memory.limit === null ? 'none' : formatBytes(memory.limit)],
    ['huge pages', report.hugePages ?? 'unknown'],
    ['native addon', binary.file === null ? 'not loaded' : `${binary.file}${build}`],
  ]
  if (isa) fields.push(['instruction set', `${isa.active}: ${isa.why} (usable: ${isa.usable.join(', ')})`])
  if (threads) fields.push(['threads', `${threads.active} of at most ${threads.max}`])
  for (const { device, available, why } of report.devices) {
    fields.push([`device ${device}`, `${available ? 'usable' : 'not usable'}: ${why}`])
  }
  const lines = report.findings.map(({ level, what, fix }) => `\n${level}: ${what}\n  fix: ${fix}`)
  if (binary.error !== null) lines.push(`\n${binary.error}`)
  return [formatFields(fields), ...(lines.length > 0 ? lines : ['\nEverything needed is here.'])].join('\n')
}

function doctor(session: Session, options: { json?: boolean }): Promise<void> {
  const report = collect()
  if (options.json) session.json(report)
  else session.print(render(report))
  if (!report.ok) process.exitCode = 1
  return Promise.resolve()
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('what was found on this machine, what runs where and why, what to fix')
    .addOption(jsonOption())
    .action(withSession(doctor))
}
