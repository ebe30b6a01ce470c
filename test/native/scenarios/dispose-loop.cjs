'use strict'
// 100 layers of 6 MB and 100 states of 1.5 MB, one after the other in a loop that never lets a finalizer run.
const { addon, description } = require('./common.cjs')

const megabytes = () => process.memoryUsage().rss / 2 ** 20

async function main() {
  const desc = description()
  let before = 0
  for (let i = 0; i < 110; i++) {
    const layer = await addon.MoeLayer.create(desc, 'exact')
    for (let j = 0; j < 10; j++) new addon.MomentumState({ type: 'adam' }, 512, 256).dispose()
    layer.dispose()
    if (i === 9) before = megabytes()
  }
  const grown = megabytes() - before
  console.log(grown < 150 ? 'end' : `${grown.toFixed()} MB more`)
}

main()
