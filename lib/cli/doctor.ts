import fs from 'node:fs'
import os from 'node:os'
import type { Command } from 'commander'
import { type DeviceInfo, cudaDevices, cudaInfo, cudaVersion, deviceNames, presetDevice } from '../device'
import { codeOf } from '../errors'
import {
  buildCommand,
  checkThreadsVariable,
  maxThreads,
  native,
  nativeFile,
  nativeVariableFix,
  platformText,
} from '../native'
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

/** null, or what a check of a variable has against its value. */
function complaint(check: () => unknown): string | null {
  try {
    check()
    return null
  } catch (error) {
    return (error as Error).message
  }
}

/** The first use of the addon refuses such a SMOE_THREADS; it is put aside, so that the rest can be looked at. */
function threadsFindings(): Finding[] {
  const what = complaint(checkThreadsVariable)
  if (what === null) return []
  delete process.env['SMOE_THREADS']
  return [
    { level: 'failure', what, fix: `unset SMOE_THREADS, or set it to a number from 1 to ${maxThreads}` },
  ]
}

function isaFindings(runtime: ReturnType<typeof binaryReport>['runtime']): Finding[] {
  if (runtime === null || runtime.isa !== '') return []
  const what = `SMOE_ISA=${process.env['SMOE_ISA']} is unknown, or not usable on this CPU`
  return [
    { level: 'failure', what, fix: `unset SMOE_ISA, or set it to one of ${runtime.usableIsas.join(', ')}` },
  ]
}

/** SMOE_DEVICE says where everything goes that names no device: nothing does when that one cannot be used. */
function presetFindings(devices: readonly DeviceInfo[] | undefined): Finding[] {
  const wrong = complaint(presetDevice)
  if (wrong !== null) {
    return [{ level: 'failure', what: wrong, fix: `unset SMOE_DEVICE, or set it to ${deviceNames}` }]
  }
  const index = presetDevice()
  if (index === undefined || index < 0 || devices === undefined) return []
  const found = devices.find(({ device }) => device === 'cuda' || device === `cuda:${index}`)
  if (found?.available) return []
  const why =
    found?.why ?? `the devices of this machine are ${devices.map(({ device }) => device).join(', ')}`
  return [
    {
      level: 'failure',
      what: `SMOE_DEVICE=${process.env['SMOE_DEVICE']} cannot be used: ${why}`,
      fix: `unset SMOE_DEVICE, or set it to cpu${found?.fix ? `; for a GPU: ${found.fix}` : ''}`,
    },
  ]
}

function isaReason(active: string, usable: readonly string[]): string {
  if (active === '') return 'SMOE_ISA names none that is usable here'
  if (process.env['SMOE_ISA']) return 'SMOE_ISA asks for it'
  return active === usable.at(-1) ? 'the best that this CPU and system offer' : 'chosen by this process'
}

/** What the CUDA backend is and finds; null without an addon to ask. */
async function cudaReport(addon: boolean) {
  if (!addon) return null
  const info = await cudaInfo()
  const version = (number: number) => (number === 0 ? null : cudaVersion(number))
  return {
    library: info.path === '' ? null : info.path,
    loaded: info.kind !== undefined,
    kind: info.kind ?? null,
    builtFor: version(info.runtime),
    driver: version(info.driver),
    devices: cudaDevices(info),
  }
}

/** A machine that has a GPU, or a library that was asked for by name, should be able to use it. */
function cudaFindings(cuda: Awaited<ReturnType<typeof cudaReport>>): Finding[] {
  const expected = fs.existsSync('/proc/driver/nvidia/version') || process.env['SMOE_CUDA_LIBRARY']
  return (cuda?.devices ?? []).flatMap(({ device, available, why, fix, name }) =>
    available || !(expected || name)
      ? []
      : [{ level: 'advice', what: `${device} cannot be used: ${why}`, fix: fix ?? '' }],
  )
}

async function collect() {
  const threadsWrong = threadsFindings()
  const binary = binaryReport()
  const cuda = await cudaReport(binary.error === null)
  const quota = system.cpuQuota()
  const memory = { total: os.totalmem(), available: system.availableMemory(), limit: system.memoryLimit() }
  const hugePages = system.transparentHugePages()
  const findings: Finding[] = [
    ...threadsWrong,
    ...isaFindings(binary.runtime),
    ...presetFindings(cuda?.devices),
  ]
  if (binary.error !== null) {
    findings.push({
      level: 'failure',
      what: `the native addon does not load (${binary.code ?? 'unknown'})`,
      fix: nativeVariableFix() ?? `${buildCommand()}, with CMake 3.22 and a C++17 compiler installed`,
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
  findings.push(...cudaFindings(cuda))
  const cpu: DeviceInfo = { device: 'cpu', available: true, why: 'always available' }
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
    cuda: cuda && {
      library: cuda.library,
      loaded: cuda.loaded,
      kind: cuda.kind,
      builtFor: cuda.builtFor,
      driver: cuda.driver,
    },
    devices: [cpu, ...(cuda?.devices ?? [])],
    automatic: process.env['SMOE_DEVICE'] ?? null,
    findings,
    ok: !findings.some(({ level }) => level === 'failure'),
  }
}

function deviceText({
  available,
  why,
  fix,
  name,
  computeCapability,
  memory,
  memoryFree,
}: DeviceInfo): string {
  const free = memory && memoryFree ? `${formatBytes(memoryFree)} free of ${formatBytes(memory)}, ` : ''
  const what = name ? `${name}, compute capability ${computeCapability}, ${free}` : ''
  return `${what}${available ? 'usable' : 'not usable'}: ${why}${fix ? `; to change that: ${fix}` : ''}`
}

function render(report: Awaited<ReturnType<typeof collect>>): string {
  const { cpu, memory, binary, isa, threads, cuda } = report
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
  if (isa) {
    const active = isa.active === '' ? 'none' : isa.active
    fields.push(['instruction set', `${active}: ${isa.why} (usable: ${isa.usable.join(', ')})`])
  }
  if (threads) fields.push(['threads', `${threads.active} of at most ${threads.max}`])
  if (cuda?.library) {
    const versions = `for CUDA ${cuda.builtFor ?? 'unknown'}, driver ${cuda.driver ?? 'not found'}`
    fields.push(['cuda plug-in', `${cuda.library}, ${cuda.loaded ? versions : 'not loaded'}`])
  } else if (cuda) {
    fields.push(['cuda plug-in', 'none'])
  }
  for (const device of report.devices) fields.push([`device ${device.device}`, deviceText(device)])
  if (report.automatic) fields.push(['device auto', `${report.automatic}, because SMOE_DEVICE says so`])
  const lines = report.findings.map(({ level, what, fix }) => `\n${level}: ${what}\n  fix: ${fix}`)
  if (binary.error !== null) lines.push(`\n${binary.error}`)
  return [formatFields(fields), ...(lines.length > 0 ? lines : ['\nEverything needed is here.'])].join('\n')
}

async function doctor(session: Session, options: { json?: boolean }): Promise<void> {
  const report = await collect()
  if (options.json) session.json(report)
  else session.print(render(report))
  if (!report.ok) process.exitCode = 1
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('what was found on this machine, what runs where and why, what to fix')
    .addOption(jsonOption())
    .action(withSession(doctor))
}
