// Reads the ptxas reports of scripts/cuda-compile.sh and holds them against the committed budget: registers per kernel and
// architecture. Spills, stack frames (local memory) and wgmma that ptxas serialised (C7510) are never within budget.
//   node scripts/cuda-budget.mjs <folder of *.ptxas> <budget.json> [--update]
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const [folder, budgetPath, option] = process.argv.slice(2)
const found = {}
const problems = []

function parse(file, text) {
  let arch = ''
  let kernel = ''
  for (const line of text.split('\n')) {
    const entry = line.match(/Compiling entry function '([^']+)' for '([^']+)'/)
    // Names of an anonymous namespace hold a hash of where the file lies, which is not what the budget is about.
    if (entry) kernel = entry[1].replace(/_GLOBAL__N__[0-9a-f]{8}_/, '_GLOBAL__N__')
    if (entry) arch = entry[2]
    if (/C7510/.test(line)) problems.push(`${file}: ${line.trim()}`)
    if (/: warning\b/.test(line)) problems.push(`${file}: ${line.trim()}`)
    const frame = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/)
    // Lines without an entry function before them belong to device functions that were not inlined.
    if (frame && frame.slice(1).some((bytes) => bytes !== '0'))
      problems.push(`${file}: ${arch} ${kernel}: ${line.trim()}`)
    const registers = line.match(/Used (\d+) registers/)
    if (registers) ((found[file] ??= {})[arch] ??= {})[kernel] = Number(registers[1])
  }
}

for (const name of readdirSync(folder)
  .filter((n) => n.endsWith('.ptxas'))
  .sort()) {
  parse(name.replace(/\.ptxas$/, '').replaceAll('__', '/'), readFileSync(join(folder, name), 'utf8'))
}

const sorted = (value) =>
  typeof value !== 'object'
    ? value
    : Object.fromEntries(
        Object.keys(value)
          .sort()
          .map((key) => [key, sorted(value[key])]),
      )

if (option === '--update') {
  writeFileSync(budgetPath, `${JSON.stringify(sorted(found), null, 2)}\n`)
} else {
  const budget = JSON.parse(readFileSync(budgetPath, 'utf8'))
  for (const [file, archs] of Object.entries(found)) {
    for (const [arch, kernels] of Object.entries(archs)) {
      for (const [kernel, registers] of Object.entries(kernels)) {
        const allowed = budget[file]?.[arch]?.[kernel]
        if (allowed === undefined) problems.push(`${file}: ${arch} ${kernel}: no budget (run with --update)`)
        else if (registers > allowed)
          problems.push(`${file}: ${arch} ${kernel}: ${registers} registers, budget ${allowed}`)
      }
    }
  }
}
const count = Object.values(found)
  .flatMap((archs) => Object.values(archs))
  .reduce((n, k) => n + Object.keys(k).length, 0)
for (const problem of problems) console.error(problem)
console.log(`${count} kernels checked, ${problems.length} problems`)
process.exit(problems.length === 0 ? 0 : 1)
