// The addon makes its typed arrays and errors in Node's own realm, jest runs tests in another: share the array classes,
// so that instanceof and toEqual work.
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
    Object.assign(this.global.process.env, config.projectConfig.testEnvironmentOptions.env)
  }
}
