'use strict'
const { Worker, isMainThread } = require('node:worker_threads')
const { addon, description, input } = require('./common.cjs')

async function work() {
  const layer = await addon.MoeLayer.create(description(), 'exact')
  for (let i = 0; i < 10; i++) layer.forward(input(1024), 'f32', 1024, undefined)
  setTimeout(() => process.exit(0), Math.random() * 20)
}

async function main() {
  await Promise.all(
    Array.from({ length: 6 }, () => new Promise((resolve) => new Worker(__filename).once('exit', resolve))),
  )
  console.log('end')
}

if (isMainThread) main()
else work()
