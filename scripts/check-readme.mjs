// Runs every ```js block of README.md as an ES module of its own, in the repository, so that the examples stay true.
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const readme = fs.readFileSync(path.join(root, 'README.md'), 'utf8')
const blocks = [...readme.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map((match) => match[1])

const counts = { passed: 0, failed: 0 }
blocks.forEach((code, index) => {
  // Inside the package, so that `import 'smoe'` finds it by its own name.
  const file = path.join(root, 'build', `readme-${index + 1}.mjs`)
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, code)
  const child = spawnSync(process.execPath, [file], { cwd: root, encoding: 'utf8', timeout: 120_000 })
  counts[child.status === 0 ? 'passed' : 'failed']++
  console.log(`example ${index + 1}: ${child.status === 0 ? 'ran' : 'FAILED'}`)
  console.log(`${child.stdout}${child.stderr}`.replace(/^/gm, '  '))
})
if (blocks.length === 0) counts.failed++
console.log(`${counts.passed} passed, ${counts.failed} failed, 0 skipped`)
process.exitCode = counts.failed === 0 ? 0 : 1
