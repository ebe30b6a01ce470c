'use strict'
// What the scenarios share. SMOE_NATIVE names the addon.
const addon = require(process.env.SMOE_NATIVE)

const zeros = (shape) => ({
  data: new Float32Array(shape.reduce((a, b) => a * b)).fill(1 / 64),
  dtype: 'f32',
  shape,
})

function description(hidden = 256, width = 256, experts = 8) {
  return {
    hidden,
    activation: 'silu',
    router: { experts, score: 'softmax', select: 'topK', k: 2, normP: 1 },
    routerWeight: zeros([experts, hidden]),
    experts: Array.from({ length: experts }, () => ({
      gate: zeros([width, hidden]),
      up: zeros([width, hidden]),
      down: zeros([hidden, width]),
    })),
  }
}

const input = (tokens, hidden = 256) => Float32Array.from({ length: tokens * hidden }, (_, i) => Math.sin(i))

module.exports = { addon, description, input }
