// Fails when an #include or an import points against the direction of the architecture (docs/architecture.md).
// Reads the real tree; folders that are not named here are refused, so that a new one gets its place on purpose.
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const problems = []
const refuse = (file, line, text) => problems.push(`${path.relative(root, file)}:${line}: ${text}`)

function filesBelow(dir, extensions) {
  if (!fs.existsSync(dir)) return []
  return fs
    .readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && extensions.includes(path.extname(entry.name)))
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name))
}

/** [line number, captured text] of every match of a pattern with one group. */
function matches(text, pattern) {
  return [...text.matchAll(pattern)].map((match) => [text.slice(0, match.index).split('\n').length, match[1]])
}

// ---- C++: a folder may include itself and what stands to its left.
const nativeOrder = [
  'core',
  'cuda',
  'formats',
  'kernels',
  'device',
  'layer',
  'decoder',
  'prepare',
  'bindings',
]
const apart = ['test', 'bench'] // may include everything; nothing includes them
const native = path.join(root, 'native')

function checkInclude(file, from, line, included) {
  const name = path.relative(native, file)
  if (/^(napi|node_api|js_native_api)\.h$/.test(included) && from !== 'bindings') {
    refuse(file, line, `${included} belongs in bindings/ only`)
  }
  const relative = fs.existsSync(path.join(path.dirname(file), included))
  const target = path.normalize(relative ? path.join(path.dirname(name), included) : included)
  if (!fs.existsSync(path.join(native, target))) return // a system header
  if (
    /(^|\/)reference(_[a-z0-9]+)?\.(h|cc)$/.test(target) &&
    from !== 'test' &&
    !/\/reference/.test(`/${name}`)
  ) {
    refuse(file, line, `${target} is a reference for tests`)
  }
  const compilesBodies = name.startsWith('kernels/isa/') || name.endsWith('-inl.h') || apart.includes(from)
  if (target.endsWith('-inl.h') && !compilesBodies) {
    refuse(file, line, `${target} is a kernel body: only kernels/isa/ compiles it`)
  }
  if (apart.includes(from)) return
  const to = target.split('/')[0]
  if (apart.includes(to)) refuse(file, line, `the library includes ${to}/`)
  else if (nativeOrder.indexOf(to) > nativeOrder.indexOf(from))
    refuse(file, line, `${from}/ must not include ${to}/`)
}

let includes = 0
for (const file of filesBelow(native, ['.cc', '.h', '.def', '.cu', '.cuh'])) {
  const from = path.relative(native, file).split(path.sep)[0]
  if (!apart.includes(from) && !nativeOrder.includes(from))
    refuse(file, 1, `native/${from} has no place in the order`)
  const text = fs.readFileSync(file, 'utf8')
  for (const [line, included] of matches(text, /^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]/gm)) {
    includes++
    checkInclude(file, from, line, included)
  }
}

// ---- TypeScript: files directly in lib/ other than index.ts are the base; a folder may import its own level or lower.
const libLevels = [
  ['native'], // finds and loads the binary
  ['tensor'],
  ['router', 'momentum'],
  ['checkpoint'],
  ['layer'],
  ['model'],
  ['prepare'],
  ['cli'],
  ['index'],
]
const lib = path.join(root, 'lib')
const levelOf = (name) => libLevels.findIndex((names) => names.includes(name))

/** The folder of a file of lib/, or 'index', or 'native' for every other file of the base. */
function placeOf(file) {
  const parts = path.relative(lib, file).split(path.sep)
  if (parts.length > 1) return parts[0]
  return /^index\.ts$/.test(parts[0]) ? 'index' : 'native'
}

function resolveImport(file, specifier) {
  const base = path.resolve(path.dirname(file), specifier.replace(/\.js$/, ''))
  return [`${base}.ts`, `${base}.d.ts`, path.join(base, 'index.ts')].find((name) => fs.existsSync(name))
}

let imports = 0
const importPattern = /(?:^|[;\s])(?:import|export)\s[^'"`;]*?from\s*['"]([^'"]+)['"]/gm
const callPattern = /\b(?:require|import)\(\s*['"]([^'"]+)['"]/gm
for (const file of filesBelow(lib, ['.ts'])) {
  const from = placeOf(file)
  if (levelOf(from) < 0) refuse(file, 1, `lib/${from} has no place in the order`)
  const text = fs.readFileSync(file, 'utf8')
  const found = [...matches(text, importPattern), ...matches(text, callPattern)]
  for (const [line, specifier] of found) {
    imports++
    if (specifier === 'node-gyp-build' && path.basename(file) !== 'native.ts') {
      refuse(file, line, 'native.ts alone loads the binary')
    }
    if (specifier === 'commander' && from !== 'cli') refuse(file, line, 'commander belongs in cli/ only')
    if (!specifier.startsWith('.')) continue
    const target = resolveImport(file, specifier)
    if (!target) {
      refuse(file, line, `${specifier} does not resolve`)
      continue
    }
    if (!target.startsWith(lib + path.sep)) {
      if (path.basename(target) !== 'binding.d.ts') refuse(file, line, `${specifier} lies outside lib/`)
      continue
    }
    const to = placeOf(target)
    if (to === 'index') refuse(file, line, 'index.ts only exports; import the file that defines the name')
    else if (levelOf(to) > levelOf(from)) refuse(file, line, `${from} must not import ${to}`)
  }
}

if (includes === 0) problems.push('no #include found below native/: is the tree complete?')
if (imports === 0) problems.push('no import found below lib/: is the tree complete?')
for (const problem of problems) console.error(problem)
console.log(`check-layers: ${includes} includes, ${imports} imports, ${problems.length} problems`)
process.exitCode = problems.length === 0 ? 0 : 1
