'use strict'
// Writes dist/index.mjs and dist/index.d.mts around the CommonJS build. A second compiled copy would give `import`
// and `require` users different classes; the wrapper hands both the same objects.
const fs = require('node:fs')
const path = require('node:path')

const dist = path.join(__dirname, '..', 'dist')
const names = Object.keys(require(path.join(dist, 'index.js'))).sort()
if (names.length === 0) throw new Error('dist/index.js exports nothing')

const list = names.map((name) => `  ${name},\n`).join('')
fs.writeFileSync(path.join(dist, 'index.d.mts'), "export * from './index.js'\n")
// Last: scripts/setup.cjs takes this file's time as the time of the whole build.
fs.writeFileSync(
  path.join(dist, 'index.mjs'),
  `import cjs from './index.js'\n\nexport const {\n${list}} = cjs\n`,
)
