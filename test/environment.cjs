'use strict'
// jest runs tests in a realm of their own; what the addon makes belongs to Node's. Sharing the array classes lets
// `instanceof Float32Array` and toEqual work on both.
const { TestEnvironment } = require('jest-environment-node')

const shared = [
  'ArrayBuffer',
  'SharedArrayBuffer',
  'DataView',
  'Int8Array',
  'Uint8Array',
  'Uint8ClampedArray',
  'Int16Array',
  'Uint16Array',
  'Int32Array',
  'Uint32Array',
  'BigInt64Array',
  'BigUint64Array',
  'Float32Array',
  'Float64Array',
]

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context)
    for (const name of shared) this.global[name] = globalThis[name]
  }
}
