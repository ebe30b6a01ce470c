// Fails when what binding.d.ts declares, what the built addon exports, and the two lists of error codes differ.
//   node scripts/check-binding.mjs [path of smoe.node]
import fs from 'node:fs'
import path from 'node:path'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)
const problems = []

function compare(what, declaredIn, declared, foundIn, found) {
  for (const name of declared) {
    if (!found.includes(name)) problems.push(`${what} ${name}: in ${declaredIn}, not in ${foundIn}`)
  }
  for (const name of found) {
    if (!declared.includes(name)) problems.push(`${what} ${name}: in ${foundIn}, not in ${declaredIn}`)
  }
}

/** name -> null for values and functions, { instance, statics } with member names for classes. */
function declarations(file) {
  const source = ts.createSourceFile(file, fs.readFileSync(file, 'utf8'), ts.ScriptTarget.ES2022, true)
  const found = new Map()
  for (const statement of source.statements) {
    if (ts.isFunctionDeclaration(statement)) found.set(statement.name.text, null)
    if (ts.isVariableStatement(statement)) {
      for (const { name } of statement.declarationList.declarations) found.set(name.text, null)
    }
    if (!ts.isClassDeclaration(statement)) continue
    const members = { instance: [], statics: [] }
    for (const member of statement.members) {
      if (ts.isConstructorDeclaration(member)) continue
      const isStatic = member.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.StaticKeyword)
      members[isStatic ? 'statics' : 'instance'].push(member.name.text)
    }
    found.set(statement.name.text, members)
  }
  return found
}

const declared = declarations(path.join(root, 'binding.d.ts'))
const addon = require(path.resolve(process.argv[2] ?? require('node-gyp-build').resolve(root)))
compare('export', 'binding.d.ts', [...declared.keys()], 'the addon', Object.keys(addon))

let members = 0
for (const [name, classMembers] of declared) {
  if (classMembers === null || typeof addon[name] !== 'function') continue
  const own = (object, builtIn) =>
    Object.getOwnPropertyNames(object).filter((member) => !builtIn.includes(member))
  const instance = own(addon[name].prototype, ['constructor'])
  const statics = own(addon[name], ['length', 'name', 'prototype', 'arguments', 'caller'])
  compare(`${name} member`, 'binding.d.ts', classMembers.instance, 'the addon', instance)
  compare(`${name} static member`, 'binding.d.ts', classMembers.statics, 'the addon', statics)
  members += instance.length + statics.length
}

const strings = (file, pattern) =>
  [...fs.readFileSync(path.join(root, file), 'utf8').matchAll(pattern)].map((match) => match[1])
const inNative = strings('native/core/error_codes.def', /^SMOE_ERROR\(\w+, "(\w+)"\)/gm)
const inLib = strings('lib/errors.ts', /^ {2}'(ERR_SMOE_\w+)',$/gm)
compare('error code', 'error_codes.def', inNative, 'lib/errors.ts', inLib)
compare('error code', 'error_codes.def', inNative, 'the addon', addon.errorCodes)
if (inNative.join() !== inLib.join()) problems.push('error codes: lib/errors.ts has another order')

for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exit(1)
console.log(`${declared.size} exports, ${members} members, ${inNative.length} error codes agree`)
