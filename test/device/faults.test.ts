import path from 'node:path'
import { emulated, run } from '../helpers/device'
import { momentumModel } from '../helpers/paths'

// Each in a process of its own: the emulation fails as SMOE_CUDA_EMU_FAULT says (native/cuda/emu/inject.h), and the process
// must go on serving on the CPU.
const suite = emulated ? describe : describe.skip
const dir = JSON.stringify(momentumModel)

suite('no usable device', () => {
  const cases: [string, Record<string, string>, RegExp, string][] = [
    [
      'no driver',
      { SMOE_CUDA_EMU_FAULT: 'no-driver' },
      /no CUDA driver is installed; install an NVIDIA driver/,
      'driver',
    ],
    ['no device', { SMOE_CUDA_EMU_FAULT: 'no-device' }, /make a GPU visible to this process/, 'visible'],
    [
      'an old device',
      { SMOE_CUDA_EMU_FAULT: 'old-device' },
      /compute capability 7.5, .*use a GPU of compute capability 8.0/,
      '8.0',
    ],
    ['no library', { SMOE_CUDA_LIBRARY: '/no/such/library.so' }, /library.so/, 'SMOE_CUDA_LIBRARY'],
  ]
  test.each(cases)(
    '%s: forcing it rejects and says why and what to do; the CPU serves',
    async (_, env, why, fix) => {
      const found = await run(
        `
      const forced = tiny('cuda')
      const reason = await message(forced)
      const layer = await tiny('cpu')
      const [cpu, gpu] = await smoe.devices()
      print({ code: await code(forced), model: await code(smoe.MoeModel.load(${dir}, { device: 'cuda:0' })), reason,
        auto: (await tiny('auto')).device, served: (await layer.forward(rows(2))).shape, available: gpu.available,
        why: gpu.why, fix: gpu.fix })`,
        { ...env, SMOE_DEVICE: '' },
      )
      expect(found).toEqual({
        code: 'ERR_SMOE_DEVICE_UNAVAILABLE',
        model: 'ERR_SMOE_DEVICE_UNAVAILABLE',
        reason: expect.stringMatching(why),
        auto: 'cpu',
        served: [2, 16],
        available: false,
        why: expect.stringMatching(/./),
        fix: expect.stringContaining(fix),
      })
      const { reason, why: cause, fix: cure } = found as Record<string, string>
      expect(reason).toBe(`CUDA device 0 cannot be used: ${cause}; ${cure}; or use device "cpu"`) // as devices() says it
    },
  )
})

suite('memory runs out', () => {
  test('while a layer loads: nothing is left behind, and the next one loads', async () => {
    const found = await run(
      `
      const first = await code(tiny('cuda'))
      const layer = await tiny('cuda')
      print({ first, then: (await layer.forward(rows(2))).shape, cpu: (await (await tiny('cpu')).forward(rows(2))).shape })`,
      { SMOE_CUDA_EMU_FAULT: 'out-of-memory:2' },
    )
    expect(found).toEqual({ first: 'ERR_SMOE_OUT_OF_MEMORY', then: [2, 16], cpu: [2, 16] })
  })

  test('a model larger than the device names the sizes', async () => {
    const found = await run(
      `
      const load = (device) => smoe.MoeModel.load(${dir}, { device })
      const reason = await message(load('cuda'))
      const model = await load('cpu')
      print({ code: await code(load('cuda')), reason, cpu: (await model.forward([1, 2, 3])).shape[0],
        small: (await (await tiny('cuda')).forward(rows(1))).shape })`,
      { SMOE_CUDA_EMU_FAULT: `memory:${2 ** 21}` },
    )
    expect(found).toEqual({
      code: 'ERR_SMOE_OUT_OF_MEMORY',
      reason: expect.stringMatching(/no room for .* MiB more/),
      cpu: 3,
      small: [1, 16], // what the failed loads took was given back
    })
  })

  test('in the middle of a call: it rejects, the next one runs', async () => {
    const script = `
      const layer = await tiny('cuda').catch(() => undefined)
      const call = () => code(layer.forward(rows(2)))
      print(layer === undefined ? null : [await call(), await call()])`
    // After the allocations of the load, however many, the next one is the call's.
    let found: unknown = null
    for (let after = 8; found === null && after < 32; after++) {
      found = await run(script, { SMOE_CUDA_EMU_FAULT: `out-of-memory:${after}` })
    }
    expect(found).toEqual(['ERR_SMOE_OUT_OF_MEMORY', 'ok'])
  })
})

suite('the device fails', () => {
  test.each(['launch:3', 'synchronize:3'])(
    '%s: its objects reject from then on, the CPU serves',
    async (fault) => {
      const found = await run(
        `
      const codes = []
      const layer = await tiny('cuda').catch((error) => { codes.push(error.code) })
      for (let i = 0; layer && i < 8; i++) codes.push(await code(layer.forward(rows(2))))
      const sync = () => { try { layer?.forwardSync(rows(1)); return 'ok' } catch (error) { return error.code } }
      const [, gpu] = await smoe.devices()
      print({ last: codes.at(-1), first: [...new Set(codes.filter((one) => one !== 'ok'))],
        sync: layer ? sync() : 'ERR_SMOE_DEVICE_LOST', create: await code(tiny('cuda')),
        model: await code(smoe.MoeModel.load(${dir}, { device: 'cuda' })), available: gpu.available,
        cpu: (await (await tiny('cpu')).forward(rows(2))).shape, gone: (layer?.dispose(), layer?.memoryUsage().device ?? 0) })`,
        { SMOE_CUDA_EMU_FAULT: fault },
      )
      const lost = 'ERR_SMOE_DEVICE_LOST'
      expect(found).toEqual({
        last: lost,
        first: [lost],
        sync: lost,
        create: lost,
        model: lost,
        available: false,
        cpu: [2, 16],
        gone: 0,
      })
    },
  )

  test('while a text is generated: the loop rejects, the model on the CPU goes on', async () => {
    const found = await run(
      `
      const generate = async (model) => {
        let count = 0
        for await (const _ of model.generate([1, 2, 3], { maxNewTokens: 6, ignoreEos: true })) count++
        return count
      }
      const load = (device) => smoe.MoeModel.load(${dir}, { device })
      const there = await load('cuda')
      const states = [await code(generate(there)), await code(generate(there)), await code(there.forward([1]))]
      print({ states, caches: there.memoryUsage().kvCaches, cpu: await generate(await load('cpu')) })`,
      { SMOE_CUDA_EMU_FAULT: 'launch:60' },
    )
    const lost = 'ERR_SMOE_DEVICE_LOST'
    expect(found).toEqual({ states: [lost, lost, lost], caches: 0, cpu: 6 })
  })
})

suite('lifetimes', () => {
  test('the process ends by itself without dispose(), and by exit() in the middle of calls', async () => {
    expect(await run(`const layer = await tiny('cuda'); await layer.forward(rows(2)); print('done')`)).toBe(
      'done',
    )
    const leaving = `
      const layer = await tiny('cuda')
      for (let i = 0; i < 8; i++) layer.forward(rows(8))
      setTimeout(() => { print('leaving'); process.exit(0) }, 20)`
    expect(await run(leaving)).toBe('leaving')
  })

  test('a worker that is stopped in a call takes nothing with it', async () => {
    const hook = JSON.stringify(path.join(__dirname, '..', 'helpers', 'typescript_hook.cjs'))
    const found = await run(`
      const { Worker } = require('node:worker_threads')
      const script = \`require(${hook.replaceAll('\\', '\\\\')})
        const smoe = require('\${require.resolve(${JSON.stringify(path.join(__dirname, '..', '..', 'lib', 'index.ts'))})}')
        const { parentPort } = require('node:worker_threads')
        smoe.MoeModel.load(${JSON.stringify(dir).slice(1, -1)}, { device: 'cuda' }).then(async (model) => {
          parentPort.postMessage('loaded')
          for (;;) await model.forward([1, 2, 3, 4])
        })\`
      const layer = await tiny('cuda')
      const worker = new Worker(script, { eval: true })
      await new Promise((resolve, reject) => { worker.once('message', resolve); worker.once('error', reject) })
      const before = (await layer.forward(rows(2))).data()
      await worker.terminate()
      const after = (await layer.forward(rows(2))).data()
      print(before.every((value, i) => value === after[i]))`)
    expect(found).toBe(true)
  })
})

suite('schedules of the emulation', () => {
  const script = `
    const { createHash } = require('node:crypto')
    const hash = createHash('sha256')
    const layer = await tiny('cuda')
    for (const tokens of [1, 5, 70]) hash.update((await layer.forward(rows(tokens))).data())
    const state = new smoe.MomentumState({ type: 'adam' }, [2, hidden])
    hash.update((await layer.forward(rows(2), { state })).data())
    const model = await smoe.MoeModel.load(${dir}, { device: 'cuda' })
    hash.update((await model.forward([1, 2, 3])).data())
    for await (const { id } of model.generate([5, 6], { maxNewTokens: 3, ignoreEos: true })) hash.update(String(id))
    print(hash.digest('hex'))`
  test('give the same bits, whatever the order of threads and blocks', async () => {
    const [lazy, eager] = [
      await run(script, { SMOE_CUDA_EMU_SCHEDULE: 'lazy', SMOE_CUDA_EMU_ORDER: 'ascending' }),
      await run(script, { SMOE_CUDA_EMU_SCHEDULE: 'eager', SMOE_CUDA_EMU_ORDER: 'random' }),
    ]
    expect(eager).toBe(lazy)
  })
})
