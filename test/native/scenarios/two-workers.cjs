'use strict'
// The same calls from three threads at once give the same bits.
const { Worker, isMainThread, parentPort } = require('node:worker_threads')
const { addon, description, input } = require('./common.cjs')

async function work() {
  const layer = await addon.MoeLayer.create(description(), 'fast')
  const x = input(64)
  let last
  for (let i = 0; i < 30; i++) {
    last = await layer.forward(x, 'f32', 64, undefined)
    const sync = new Float32Array(x.length)
    layer.forwardSync(x, 'f32', 64, sync)
    if (Buffer.compare(Buffer.from(sync.buffer), Buffer.from(last.buffer)) !== 0) throw new Error('differ')
  }
  layer.dispose()
  return last
}

async function main() {
  const workers = [0, 1].map(
    () =>
      new Promise((resolve, reject) => {
        const worker = new Worker(__filename)
        worker.once('message', resolve)
        worker.once('error', reject)
      }),
  )
  const [mine, ...theirs] = await Promise.all([work(), ...workers])
  const bytes = Buffer.from(mine.buffer)
  console.log(theirs.every((other) => bytes.equals(Buffer.from(other.buffer))) ? 'equal' : 'different')
}

if (isMainThread) main()
else work().then((result) => parentPort.postMessage(result))
