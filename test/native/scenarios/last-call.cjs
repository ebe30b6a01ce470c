'use strict'
const { addon, description, input } = require('./common.cjs')

addon.MoeLayer.create(description(), 'fast')
  .then((layer) => layer.forward(input(512), 'f32', 512, undefined))
  .then(() => console.log('settled'))
