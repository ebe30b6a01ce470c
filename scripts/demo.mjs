// The main job of `npm start`: the sample model measured, continued, and watched while it routes.
import fs from 'node:fs'
import path from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { MoeModel } from 'smoe'

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..')
const directory = path.join(root, 'examples', 'momentum-wikitext')
const evalText = path.join(root, 'examples', 'wikitext-2-slice.txt')
const promptText = 'The game was released in Japan in'
const evalContext = 256
const shownLayers = 4

async function timed(work) {
  const begin = performance.now()
  const value = await work()
  return { value, seconds: (performance.now() - begin) / 1e3 }
}

const rate = (count, seconds) => `${Math.round(count / seconds).toLocaleString('en-US')} tokens/s`

/** One row per token: the two heaviest experts of some layers, with the weight of the first. */
function printRouting(model, ids, layers) {
  const step = Math.max(1, Math.floor(layers.length / shownLayers))
  const shown = layers.filter((_, index) => index % step === 0).slice(0, shownLayers)
  console.log(
    `\n${'token'.padEnd(14)}${shown.map(({ layer }) => `layer ${layer}`.padEnd(16)).join('')}`.trimEnd(),
  )
  ids.forEach((id, token) => {
    const cells = shown.map(({ ids: experts, weights }) => {
      const slots = experts.shape[1]
      const own = [...experts.data().subarray(token * slots, token * slots + Math.min(2, slots))]
      return `${own.join(' + ')}  (${weights.data()[token * slots].toFixed(2)})`.padEnd(16)
    })
    const name = JSON.stringify(model.decode([id])).slice(0, 13)
    console.log(`${name.padEnd(14)}${cells.join('')}`.trimEnd())
  })
}

/** One line per layer: every expert as a block whose height is its share of the load, even load in the middle. */
function printLoad(stats) {
  const blocks = [...'▁▂▃▄▅▆▇█']
  console.log('\nload of every expert during the evaluation (even load is ▄)')
  stats.forEach(({ layer, share }) => {
    const bar = [...share].map((part) => blocks[Math.min(7, Math.round(part * share.length * 3))]).join('')
    const most = share.indexOf(Math.max(...share))
    const text = `layer ${String(layer).padEnd(3)} ${bar}  most: expert ${most}, ${(share[most] * 100).toFixed(1)} %`
    console.log(text)
  })
}

const text = fs.readFileSync(evalText, 'utf8')
const { value: model, seconds: loadSeconds } = await timed(() => MoeModel.load(directory))
try {
  console.log(`${path.relative(process.cwd(), directory) || '.'} loaded in ${loadSeconds.toFixed(2)} s`)

  const { value: quality, seconds: evalSeconds } = await timed(() =>
    model.perplexity(text, { context: evalContext }),
  )
  const { tokens, perplexity } = quality
  console.log(`perplexity ${perplexity.toFixed(2)} over ${tokens} tokens of ${path.basename(evalText)}`)
  const load = model.stats()

  let continuation = ''
  let first = 0
  let count = 0
  const begin = performance.now()
  for await (const token of model.generate(promptText, { maxNewTokens: 64, temperature: 0 })) {
    continuation += token.text
    if (count++ === 0) first = performance.now()
  }
  const decodeSeconds = (performance.now() - first) / 1e3
  const [bold, plain] = process.stdout.isTTY ? ['\x1b[1m', '\x1b[0m'] : ['', '']
  console.log(`\n${promptText}${bold}${continuation}${plain}`)

  const ids = [...(await model.encode(promptText))]
  const { layers } = await model.trace(ids)
  printRouting(model, ids, layers)
  printLoad(load)

  const bytes = fs.statSync(path.join(directory, 'model.safetensors')).size
  console.log(`
load     ${(bytes / loadSeconds / 1e6).toFixed(0)} MB/s (${(bytes / 1e6).toFixed(1)} MB)
eval     ${rate(tokens, evalSeconds)}
prompt   ${rate(ids.length, (first - begin) / 1e3)} (${ids.length} tokens, to the first new one)
decode   ${rate(count - 1, decodeSeconds)}

Next, on a checkpoint of your own (a folder with config.json and *.safetensors):
  node dist/cli/main.js inspect FOLDER --estimate
  node dist/cli/main.js run FOLDER --prompt "Once upon a time"
  node dist/cli/main.js eval FOLDER --text FILE
  node dist/cli/main.js bench FOLDER
In a project of your own: npm install ${JSON.stringify(root)}, then npx smoe, or import { MoeModel } from 'smoe'.`)
} finally {
  model.dispose()
}
