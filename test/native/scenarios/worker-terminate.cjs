'use strict'
// Each worker keeps the op queue full; terminate() comes at a random moment: while packing, computing or settling.
const { Worker, isMainThread, parentPort } = require('node:worker_threads')
const { addon, description, input } = require('./common.cjs')

async function work() {
  parentPort.postMessage('started')
  const layer = await addon.MoeLayer.create(description(), 'exact')
  const x = input(1024)
  const state = new addon.MomentumState({ type: 'heavy_ball' }, 1024, 256)
  for (;;) {
    await Promise.all([
      layer.forward(x, 'f32', 1024, undefined, { state }),
      layer.forward(x, 'f32', 1024, new Float32Array(x.length)),
      addon.MoeLayer.create(description(), 'exact'),
      addon.route(description().router, new Float32Array(8 * 5000), 5000),
    ])
    layer.forwardSync(x.subarray(0, 256), 'f32', 1, new Float32Array(256))
  }
}

async function main() {
  for (let i = 0; i < 20; i++) {
    const worker = new Worker(__filename)
    await new Promise((resolve) => worker.once('message', resolve))
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 60))
    await worker.terminate()
  }
  // The queue still serves this thread.
  const layer = await addon.MoeLayer.create(description(), 'exact')
  await layer.forward(input(4), 'f32', 4, undefined)
  console.log(addon.runtimeInfo().pendingCalls <= 1 ? 'end' : 'calls are left')
}

if (isMainThread) main()
else work()
