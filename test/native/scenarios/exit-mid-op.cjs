'use strict'
const { addon, description, input } = require('./common.cjs')

addon.MoeLayer.create(description(), 'exact').then((layer) => {
  const x = input(4096)
  for (let i = 0; i < 20; i++) layer.forward(x, 'f32', 4096, i % 2 ? undefined : new Float32Array(x.length))
  addon.MoeLayer.create(description(), 'exact')
  setTimeout(() => process.exit(7), 30)
})
