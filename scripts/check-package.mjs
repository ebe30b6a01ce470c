// Installs the packed tarball the way users do, in empty projects, and uses it:
//   1 prebuild inside, no compiler on PATH        install, require, import, command line, also with scripts ignored
//   2 no prebuild, compiler on PATH               builds from source
//   3 no prebuild, no compiler                    install fails with one clear line; require loads, use explains
// The last line is "N passed, M failed, K skipped".
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-package-'))
const sizeLimit = 20 * 2 ** 20

// What npm sets for its scripts must not reach the npm of the projects.
const cleanEnv = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|SMOE_|NODE_OPTIONS$)/i.test(name)),
)

const counts = { passed: 0, failed: 0, skipped: 0 }

function check(name, ok, detail = '') {
  counts[ok ? 'passed' : 'failed']++
  console.log(`${ok ? 'ok    ' : 'FAILED'}  ${name}`)
  if (!ok && detail) console.log(detail.replace(/^/gm, '        '))
  return ok
}

function call(command, args, options = {}) {
  const child = spawnSync(command, args, { encoding: 'utf8', env: cleanEnv, maxBuffer: 2 ** 26, ...options })
  return {
    status: child.status,
    output: `${child.stdout ?? ''}${child.stderr ?? ''}${child.error?.message ?? ''}`,
  }
}

function must(command, args, options) {
  const { status, output } = call(command, args, options)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${output}`)
  return output
}

/** A PATH with Node, npm and a shell, and nothing that could compile. */
function barePath() {
  const bin = path.join(work, 'bin')
  fs.mkdirSync(bin)
  for (const tool of ['node', 'npm', 'npx', 'sh', 'env', 'uname', 'sed', 'dirname', 'readlink']) {
    const from = (process.env.PATH ?? '')
      .split(path.delimiter)
      .find((dir) => fs.existsSync(path.join(dir, tool)))
    if (from) fs.symlinkSync(path.join(from, tool), path.join(bin, tool))
  }
  return bin
}

const smoke = `
const hidden = 32, inter = 32, experts = 4
const random = (n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898) * 0.2)
const f32 = (shape) => smoe.Tensor.from(random(shape.reduce((a, b) => a * b)), shape)
async function main() {
  const layer = await smoe.MoeLayer.create({
    router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 } },
    routerWeight: f32([experts, hidden]),
    experts: Array.from({ length: experts }, () => ({ gate: f32([inter, hidden]), up: f32([inter, hidden]), down: f32([hidden, inter]) })),
  })
  const out = await layer.forward(f32([3, hidden]))
  const data = out.data()
  if (data.length !== 3 * hidden || !data.every(Number.isFinite) || data.every((x) => x === 0)) throw new Error('bad output')
  layer.dispose()
  console.log('forward ok')
}
main().catch((error) => { console.error(error.code + ': ' + error.message); process.exit(1) })
`

function project(name) {
  const dir = path.join(work, name)
  fs.mkdirSync(dir)
  fs.writeFileSync(path.join(dir, 'package.json'), '{ "private": true }\n')
  fs.writeFileSync(path.join(dir, 'use.cjs'), `const smoe = require('smoe')\n${smoke}`)
  fs.writeFileSync(path.join(dir, 'use.mjs'), `import * as smoe from 'smoe'\n${smoke}`)
  return dir
}

const install = (dir, tarball, env, ...flags) =>
  call('npm', ['install', tarball, '--no-audit', '--no-fund', '--foreground-scripts', ...flags], {
    cwd: dir,
    env,
  })

function checkUse(title, dir, env) {
  for (const file of ['use.cjs', 'use.mjs']) {
    const { status, output } = call('node', [file], { cwd: dir, env })
    check(`${title}: ${file === 'use.cjs' ? 'require' : 'import'} and forward`, status === 0, output)
  }
  const cli = path.join(dir, 'node_modules', '.bin', 'smoe')
  const doctor = call(cli, ['doctor', '--json'], { cwd: dir, env })
  check(`${title}: smoe doctor`, doctor.status === 0, doctor.output)
  if (doctor.status !== 0) return
  // The plug-in loads on a machine without a driver, too; from source it has to be asked for.
  const { cuda } = JSON.parse(doctor.output)
  const wanted = plugin && title !== 'from source'
  const right = wanted ? cuda.loaded && cuda.kind === 'cuda' : cuda.library === null
  check(`${title}: CUDA plug-in ${wanted ? 'loads' : 'is not there'}`, right, doctor.output)
}

/** Whether a prebuild on this machine has a CUDA plug-in. */
const plugin =
  process.env.SMOE_CUDA !== '0' &&
  [
    process.env.CUDACXX,
    'nvcc',
    ...['CUDA_HOME', 'CUDA_PATH'].map((home) => `${process.env[home]}/bin/nvcc`),
  ].some((tool) => tool && call(tool, ['--version']).status === 0)

function pack() {
  const before = fs.existsSync(path.join(root, 'prebuilds'))
  const { SMOE_CUDA } = process.env
  const env = SMOE_CUDA === undefined ? cleanEnv : { ...cleanEnv, SMOE_CUDA }
  must('node', [path.join(root, 'scripts', 'prebuild.cjs')], { cwd: root, env })
  must('npm', ['pack', '--pack-destination', work], { cwd: root })
  if (!before) fs.rmSync(path.join(root, 'prebuilds'), { recursive: true })
  const name = fs.readdirSync(work).find((file) => file.endsWith('.tgz'))
  const withPrebuild = path.join(work, name)
  const bytes = fs.statSync(withPrebuild).size
  const size = `${(bytes / 1e6).toFixed(2)} MB`
  check(`tarball is ${size}, below ${sizeLimit / 2 ** 20} MiB`, bytes < sizeLimit)
  const files = must('tar', ['tzf', withPrebuild]).trim().split('\n')
  if (plugin) {
    const found = files.some((file) => /\/prebuilds\/[^/]+\/smoe_cuda\.(so|dll)$/.test(file))
    check('tarball holds the CUDA plug-in', found, files.join('\n'))
  } else {
    counts.skipped++
    const why = process.env.SMOE_CUDA === '0' ? 'SMOE_CUDA=0' : 'no nvcc'
    console.log(`skipped ${why}: no CUDA plug-in in the tarball`)
  }
  const strange = files.filter((file) => /\/(test|node_modules|examples)\/|_test\.cc$|\.tgz$/.test(file))
  check(
    `tarball holds ${files.length} files and none of tests or examples`,
    strange.length === 0,
    strange.join('\n'),
  )

  const unpacked = path.join(work, 'unpacked')
  fs.mkdirSync(unpacked)
  must('tar', ['xzf', withPrebuild, '-C', unpacked])
  fs.rmSync(path.join(unpacked, 'package', 'prebuilds'), { recursive: true })
  const withoutPrebuild = path.join(work, 'source-only.tgz')
  must('tar', ['czf', withoutPrebuild, '-C', unpacked, 'package'])
  return { withPrebuild, withoutPrebuild }
}

try {
  const { withPrebuild, withoutPrebuild } = pack()
  const bare = { ...cleanEnv, PATH: barePath() }

  const prebuilt = project('prebuilt')
  const first = install(prebuilt, withPrebuild, bare)
  check('prebuild, no compiler: npm install', first.status === 0, first.output)
  checkUse('prebuild, no compiler', prebuilt, bare)

  const ignored = project('ignored')
  const second = install(ignored, withPrebuild, bare, '--ignore-scripts')
  check('prebuild, scripts ignored: npm install', second.status === 0, second.output)
  checkUse('prebuild, scripts ignored', ignored, bare)

  const source = project('source')
  const third = install(source, withoutPrebuild, cleanEnv)
  check('from source: npm install', third.status === 0, third.output)
  checkUse('from source', source, cleanEnv)

  const nothing = project('nothing')
  const fourth = install(nothing, withoutPrebuild, bare)
  const line = /^.*smoe: no prebuilt binary for .* not found on PATH.*$/m.exec(fourth.output)?.[0]
  check(
    'no prebuild, no compiler: npm install fails with a clear line',
    fourth.status !== 0 && !!line,
    fourth.output,
  )

  const fifth = install(nothing, withoutPrebuild, bare, '--ignore-scripts')
  check('no prebuild, scripts ignored: npm install', fifth.status === 0, fifth.output)
  const loads = call('node', ['-e', "require('smoe')"], { cwd: nothing, env: bare })
  check('no prebuild: require does not throw', loads.status === 0, loads.output)
  const use = call('node', ['use.cjs'], { cwd: nothing, env: bare })
  check(
    'no prebuild: use fails with ERR_SMOE_NATIVE_UNAVAILABLE',
    /^ERR_SMOE_NATIVE_UNAVAILABLE: /m.test(use.output),
    use.output,
  )
} catch (error) {
  check('package check runs to its end', false, error.message)
} finally {
  fs.rmSync(work, { recursive: true, force: true })
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
process.exitCode = counts.failed === 0 ? 0 : 1
