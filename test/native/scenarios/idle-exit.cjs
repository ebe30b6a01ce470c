'use strict'
const { addon, description } = require('./common.cjs')

addon.MoeLayer.create(description(), 'fast').then((layer) => {
  globalThis.kept = [layer, new addon.MomentumState({ type: 'adam' }, 100, 256), new addon.CancelToken()]
  console.log('end')
})
