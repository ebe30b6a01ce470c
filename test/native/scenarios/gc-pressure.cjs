'use strict'
// Nobody calls dispose() or gc(): V8 must collect by itself, because it was told how much memory hangs on each object.
const { addon, description, input } = require('./common.cjs')

const megabytes = () => process.memoryUsage().rss / 2 ** 20

async function main() {
  const desc = description()
  const x = input(64)
  await addon.MoeLayer.create(desc, 'exact')
  const before = megabytes()
  let most = 0
  for (let i = 0; i < 300; i++) {
    const layer = await addon.MoeLayer.create(desc, 'exact') // 6 MB
    const call = layer.forward(x, 'f32', 64, undefined)
    new addon.MomentumState({ type: 'adam' }, 512, 256) // 1.5 MB
    if (i % 10 === 9) await call // else the layer is garbage while its call runs
    most = Math.max(most, megabytes() - before)
    if (i % 10 === 9) await new Promise((resolve) => setImmediate(resolve)) // finalizers run between turns
  }
  // 2250 MB were made
  console.log(most < 1000 ? 'end' : `${most.toFixed()} MB more`)
}

main()
