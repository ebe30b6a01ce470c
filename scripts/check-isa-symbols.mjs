// Fails when an object of native/kernels/isa holds a weak symbol. Such a symbol is an inline function compiled with
// AVX instructions; the linker may keep that copy for baseline code, which then dies on older CPUs.
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const build = path.resolve(root, process.argv[2] ?? 'build')

const objects = fs.existsSync(build)
  ? fs
      .readdirSync(build, { recursive: true })
      .map(String)
      .filter((name) => /kernels[\\/]isa[\\/][^\\/]+\.(o|obj)$/.test(name))
  : []
if (objects.length === 0) {
  console.error(`check-isa-symbols: no kernels/isa objects in ${path.relative(root, build)}; build first`)
  process.exit(1)
}

let weak = 0
for (const object of objects) {
  const nm = spawnSync('nm', ['-C', path.join(build, object)], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (nm.status !== 0) {
    console.error(nm.error?.message ?? nm.stderr)
    process.exit(1)
  }
  // W/w weak, V/v weak object, u unique global: everything a linker may merge between objects
  for (const line of nm.stdout.split('\n').filter((text) => /^[0-9a-f]+ [WwVvu] /.test(text))) {
    weak++
    console.error(`${path.basename(object)}: ${line.slice(17)}`)
  }
}
console.log(`check-isa-symbols: ${objects.length} objects, ${weak} weak symbols`)
process.exitCode = weak === 0 ? 0 : 1
