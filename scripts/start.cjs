'use strict'
// `npm start`: from a fresh checkout to the sample model answering.
const { guard, inRoot, run, setup, step } = require('./setup.cjs')

guard(() => {
  setup()
  step('the sample model')
  run(process.execPath, [inRoot('scripts', 'demo.mjs')])
})
