'use strict'
// Writes prebuilds/<platform>-<arch>/smoe[.glibc|.musl].node and, where nvcc is, smoe_cuda.so beside it: prebuildify copies
// whatever shared library it finds with the addon. SMOE_CUDA=1 makes the plug-in a must. prebuildify moves the binary out of the build folder,
// so it works in a folder of its own and leaves build/ alone.
const fs = require('node:fs')
const path = require('node:path')
const prebuildify = require('prebuildify')

const root = path.join(__dirname, '..')
const work = path.join(root, 'build-prebuild')
fs.mkdirSync(work, { recursive: true })

const options = {
  cwd: work,
  out: root,
  name: 'smoe',
  napi: true,
  strip: true,
  tagLibc: process.platform === 'linux',
  shell: true, // a quoted command through a shell is the one form that also works on Windows
  nodeGyp: `"${process.execPath}" "${path.join(__dirname, 'gyp-shim.cjs')}"`,
}
prebuildify(options, (error) => {
  if (!error) return
  console.error(`prebuild: ${error.message}`)
  process.exit(1)
})
