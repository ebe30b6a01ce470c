import { addon, codeOf, expectClose, randomNumbers, rows, runMoe, tinyMoe } from './helpers'

afterEach(() => {
  addon.setThreads(addon.runtimeInfo().maxThreads)
})

describe('runtime', () => {
  test('says what it runs on', () => {
    const info = addon.runtimeInfo()
    expect(info.usableIsas).toContain(info.isa)
    expect(info.usableIsas).toContain('portable')
    expect(info.threads).toBeGreaterThan(0)
    expect(info.maxThreads).toBeGreaterThanOrEqual(info.threads)
    expect(info.build).toEqual({
      compiler: expect.any(String),
      type: expect.any(String),
      napi: expect.any(Number),
    })
    expect(info.workspaceBytes).toBeGreaterThanOrEqual(0)
    expect(addon.errorCodes).toContain('ERR_SMOE_DISPOSED')
  })

  test('every instruction set and thread count computes the same layer', async () => {
    const { isa, usableIsas, maxThreads } = addon.runtimeInfo()
    const moe = tinyMoe()
    const x = randomNumbers(9 * moe.hidden, 3)
    const expected = rows(x, moe.hidden).flatMap((row) => runMoe(moe, row))
    const layer = await addon.MoeLayer.create(moe.desc, 'exact')
    for (const name of usableIsas) {
      addon.setIsa(name)
      expect(addon.runtimeInfo().isa).toBe(name)
      const results = []
      for (const threads of [1, maxThreads]) {
        addon.setThreads(threads)
        expect(addon.runtimeInfo().threads).toBe(threads)
        results.push(await layer.forward(x, 'f32', 9, undefined))
      }
      expectClose(results[0]!, expected)
      expect(results[1]).toEqual(results[0])
    }
    addon.setIsa(isa)
    expect(await codeOf(() => addon.setIsa('mmx'))).toBe('ERR_SMOE_ISA_UNAVAILABLE')
    expect(addon.runtimeInfo().isa).toBe(isa)
    expect(await codeOf(() => addon.setThreads(0))).toBe('ERR_SMOE_INVALID_ARGUMENT')
    expect(await codeOf(() => addon.setThreads(maxThreads + 1))).toBe('ERR_SMOE_INVALID_ARGUMENT')
  })

  test('measures ceilings, and stops measuring when told', async () => {
    const ceilings = await addon.measureCeilings(1)
    expect(ceilings.threads).toBe(1)
    expect(ceilings.dramReadGBs).toBeGreaterThan(0)
    expect(ceilings.fmaGflops).toBeGreaterThan(0)
    const token = new addon.CancelToken()
    const call = codeOf(() => addon.measureCeilings(1, token))
    expect(addon.runtimeInfo().pendingCalls).toBeGreaterThan(0)
    token.cancel()
    expect(await call).toBe('ERR_SMOE_CANCELLED')
  }, 300_000) // reads half a gigabyte several times: a second on an idle machine, far longer on a busy one
})
