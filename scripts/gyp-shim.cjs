#!/usr/bin/env node
'use strict'
// prebuildify only knows node-gyp's command line: `rebuild --target=26.0.0 --devdir=… --arch=x64 --release`.
// This turns it into cmake-js's, and drops --target, which cmake-js would take for a CMake target.
const path = require('node:path')
const { spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const value = (name) =>
  process.argv.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3) ?? undefined

const cmakeJs = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
const args = [cmakeJs, 'rebuild', '-d', root, '-O', path.join(process.cwd(), 'build')]
args.push('--arch', value('arch') ?? process.arch)
// SMOE_CUDA=1: a release without its CUDA plug-in must fail; 0: without it; else where nvcc is.
args.push(`--CDSMOE_CUDA=${{ 0: 'OFF', 1: 'ON' }[process.env.SMOE_CUDA] ?? 'AUTO'}`)
if (process.argv.includes('--debug')) args.push('--debug')
process.exit(spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1)
