'use strict'
// Reads the counts that doctest prints, so that a suite of zero tests cannot pass for a good one.

const { spawn } = require('node:child_process')

/** Sums every "[doctest] test cases: a | b passed | c failed | d skipped" line of `text`; null when there is none. */
function doctestCounts(text) {
  const plain = text.replace(/\u001b\[[0-9;]*m/g, '')
  const pattern =
    /\[doctest\] test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed(?:\s*\|\s*(\d+) skipped)?/g
  const total = { passed: 0, failed: 0, skipped: 0 }
  let lines = 0
  for (const [, passed, failed] of plain.matchAll(pattern)) {
    lines++
    total.passed += Number(passed)
    total.failed += Number(failed) // cases that a filter left out are not counted: they were not asked for
  }
  return lines === 0 ? null : total
}

const SKIPPED = 77 // the exit code of smoe_tests on a CPU without the instruction set asked for

/** Counts of one run of smoe_tests; a crash or an empty run is a failure. */
function doctestResult({ status, output }) {
  if (status === SKIPPED) return { passed: 0, failed: 0, skipped: 1 }
  const counts = doctestCounts(output)
  if (counts === null || counts.passed + counts.failed === 0) return { passed: 0, failed: 1, skipped: 0 }
  if (status !== 0 && counts.failed === 0) counts.failed = 1
  return counts
}

/**
 * Runs test programs, `limit` at a time. runs: { label, command: [file, ...args], env? }.
 * done(run, result, { status, signal, output }) as each ends; resolves to the results in the order of `runs`.
 */
async function runDoctests(runs, limit, cwd, done) {
  const results = new Array(runs.length)
  let next = 0
  const one = async () => {
    for (let index = next++; index < runs.length; index = next++) {
      const { command, env } = runs[index]
      const child = spawn(command[0], command.slice(1), {
        cwd,
        env: { ...process.env, ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const chunks = []
      child.stdout.on('data', (chunk) => chunks.push(chunk))
      child.stderr.on('data', (chunk) => chunks.push(chunk))
      const [status, signal] = await new Promise((resolve) => {
        child.on('error', (error) => {
          chunks.push(Buffer.from(`${error.message}\n`))
          resolve([null, null])
        })
        child.on('close', (...end) => resolve(end))
      })
      const output = Buffer.concat(chunks).toString()
      results[index] = doctestResult({ status, output })
      done(runs[index], results[index], { status, signal, output })
    }
  }
  await Promise.all(Array.from({ length: Math.max(1, limit) }, one))
  return results
}

module.exports = { doctestResult, runDoctests, SKIPPED }
