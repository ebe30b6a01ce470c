import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { FileSource } from '../../lib/checkpoint/file_source'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { root, runCli, sampleModel } from './run_cli'

const slice = path.join(root, 'examples', 'wikitext-2-slice.txt')

test('--help and --version end with 0', async () => {
  const help = await runCli(['--help'])
  expect(help.code).toBe(0)
  for (const name of ['doctor', 'inspect', 'run', 'eval', 'trace', 'bench'])
    expect(help.stdout).toContain(name)
  const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')) as {
    version: string
  }
  expect(await runCli(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
})

test.each([
  ['no command', []],
  ['an unknown command', ['nothing']],
  ['an unknown option', ['doctor', '--nothing']],
  ['a missing model', ['inspect']],
  ['a missing --text', ['eval', 'somewhere']],
  ['a missing prompt', ['run', 'somewhere']],
  ['two prompts', ['run', 'somewhere', '--prompt', 'a', '--prompt-ids', '1']],
  ['ids that are not numbers', ['run', 'somewhere', '--prompt-ids', '1,x']],
  ['a negative count', ['run', 'somewhere', '--prompt-ids', '1', '--max-new-tokens', '-3']],
  ['an unknown precision', ['eval', 'somewhere', '--text', 'x', '--precision', 'half']],
  ['a shape that is not known', ['bench', '--shape', 'huge']],
  ['a model and a shape', ['bench', 'somewhere', '--shape', 'tiny']],
])('%s is a usage error: 2, nothing on stdout', async (_, args) => {
  const { code, stdout, stderr } = await runCli(args)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).not.toBe('')
})

test('a failure ends with 1 and one line with its code; SMOE_DEBUG adds the stack', async () => {
  const { code, stdout, stderr } = await runCli(['inspect', 'no-such-folder'])
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(/^error: .*no-such-folder.* \(ERR_SMOE_FILE_NOT_FOUND\)\n$/)
  const debug = await runCli(['inspect', 'no-such-folder'], { SMOE_DEBUG: '1' })
  expect(debug.stderr).toMatch(/\n {4}at /)
})

test('a device that is not there is refused, never replaced', async () => {
  const { code, stderr } = await runCli(['run', sampleModel, '--prompt-ids', '1', '--device', 'cuda:99'])
  expect(code).toBe(1)
  expect(stderr).toContain('ERR_SMOE_DEVICE_UNAVAILABLE')
})

test('doctor says what runs and why', async () => {
  const { code, stdout, stderr } = await runCli(['doctor', '--json'])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const report = JSON.parse(stdout) as Record<string, never>
  expect(report).toMatchObject({ ok: true, node: process.version, isa: { active: expect.any(String) } })
  expect((await runCli(['doctor'])).stdout).toContain('instruction set')
})

test('doctor with a wrong SMOE_NATIVE ends with 1 and says so', async () => {
  const { code, stdout } = await runCli(['doctor'], { SMOE_NATIVE: '/nowhere/smoe.node' })
  expect(code).toBe(1)
  expect(stdout).toContain('fix: unset SMOE_NATIVE, or set it to the path of a smoe.node')
  for (const words of ['npm rebuild', 'npm start', 'prebuilds']) expect(stdout).not.toContain(words)
})

const wrongVariables: [Record<string, string>, RegExp, RegExp][] = [
  [{ SMOE_ISA: 'mmx' }, /SMOE_ISA=mmx is unknown/, /^unset SMOE_ISA, or set it to one of portable/],
  [{ SMOE_DEVICE: 'gpu' }, /SMOE_DEVICE must be .* got 'gpu'/, /^unset SMOE_DEVICE, or set it to 'cpu'/],
  [
    { SMOE_DEVICE: 'cuda:99' },
    /SMOE_DEVICE=cuda:99 cannot be used: ./,
    /^unset SMOE_DEVICE, or set it to cpu/,
  ],
  [
    { SMOE_DEVICE: 'cuda', SMOE_CUDA_LIBRARY: '/nowhere/smoe_cuda.so' },
    /SMOE_DEVICE=cuda cannot be used: .*nowhere/,
    /^unset SMOE_DEVICE, or set it to cpu; for a GPU: ./,
  ],
  [
    { SMOE_THREADS: 'abc' },
    /SMOE_THREADS must be .* got 'abc'/,
    /^unset SMOE_THREADS, or set it to a number/,
  ],
  [{ SMOE_THREADS: '1000' }, /got '1000'/, /from 1 to 256$/],
]
test.each(wrongVariables)('doctor with %p ends with 1 and says what to set', async (env, what, fix) => {
  const { code, stdout } = await runCli(['doctor', '--json'], env)
  expect(code).toBe(1)
  const report = JSON.parse(stdout) as { findings: { level: string }[] }
  expect(report).toMatchObject({ ok: false, binary: { error: null } })
  expect(report.findings.filter(({ level }) => level === 'failure')).toEqual([
    { level: 'failure', what: expect.stringMatching(what), fix: expect.stringMatching(fix) },
  ])
})

test('inspect reads the headers', async () => {
  const { code, stdout } = await runCli(['inspect', sampleModel, '--estimate', '--json'])
  expect(code).toBe(0)
  const model = JSON.parse(stdout) as { layers: unknown[]; bytes: number; estimate: { weightBytes: number } }
  expect(model.layers).toHaveLength(6)
  expect(model.layers[0]).toMatchObject({ kind: 'moe', experts: 16, expertsPerToken: 2, width: 128 })
  expect(model.estimate.weightBytes).toBeGreaterThanOrEqual(model.bytes)
  expect((await runCli(['inspect', sampleModel])).stdout).toContain('qwen3_moe')
})

test('run is greedy and repeatable by default, and takes ids or text', async () => {
  const args = ['run', sampleModel, '--prompt-ids', '5,6,7', '--max-new-tokens', '6', '--json']
  const first = await runCli(args)
  expect(first.code).toBe(0)
  const { ids } = JSON.parse(first.stdout) as { ids: number[] }
  expect(ids).toHaveLength(6)
  expect((JSON.parse((await runCli(args)).stdout) as { ids: number[] }).ids).toEqual(ids)
  const text = await runCli(['run', sampleModel, '--prompt', 'The game was', '--max-new-tokens', '4'])
  expect({ code: text.code, printed: text.stdout.length > 1 }).toEqual({ code: 0, printed: true })
})

test('an empty prompt is refused in terms of the option', async () => {
  for (const args of [
    ['run', sampleModel, '--prompt', ''],
    ['trace', sampleModel, '--prompt', '', '--out', 'never'],
  ]) {
    const { code, stdout, stderr } = await runCli(args)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/--prompt must be a text of at least one token/)
  }
})

test('eval gives tokens, nll and perplexity that belong together', async () => {
  const args = ['eval', sampleModel, '--text', slice, '--context', '64', '--limit-tokens', '256', '--json']
  const { code, stdout, stderr } = await runCli(args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { tokens, nll, perplexity } = JSON.parse(stdout) as Record<string, number>
  expect(tokens).toBeGreaterThan(0)
  expect(tokens).toBeLessThanOrEqual(256)
  expect(Math.log(perplexity!)).toBeCloseTo(nll! / tokens!, 6)
})

test('trace writes a safetensors file with every MoE layer', async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'smoe-trace-'))
  const out = path.join(dir, 'trace.safetensors')
  try {
    const { code } = await runCli(['trace', sampleModel, '--prompt-ids', '1,2,3', '--out', out, '--json'])
    expect(code).toBe(0)
    const { tensors } = readSafetensorsHeader(new FileSource(out), out)
    expect(tensors.get('layers.5.expert_ids')).toMatchObject({ dtype: 'I32', shape: [3, 2] })
    expect(tensors.get('layers.0.momentum_out')).toMatchObject({ dtype: 'F32', shape: [3, 128] })
    expect(tensors.get('logits')).toMatchObject({ shape: [3, 4096] })
  } finally {
    fs.rmSync(dir, { recursive: true })
  }
})

test('bench prints a ratio to the ceilings', async () => {
  const { code, stdout } = await runCli([
    'bench',
    '--shape',
    'tiny',
    '--tokens',
    '1,4',
    '--rounds',
    '1',
    '--json',
  ])
  expect(code).toBe(0)
  const { results } = JSON.parse(stdout) as {
    results: Record<'tokens' | 'ratio' | 'bestRatio' | 'seconds' | 'best' | 'awaitedSeconds', number>[]
  }
  expect(results.map(({ tokens }) => tokens)).toEqual([1, 4])
  for (const { ratio, bestRatio, seconds, best, awaitedSeconds } of results) {
    expect(ratio).toBeGreaterThan(0)
    expect(bestRatio).toBeGreaterThanOrEqual(ratio)
    expect(best).toBeGreaterThan(0)
    expect(seconds).toBeGreaterThanOrEqual(best)
    expect(awaitedSeconds).toBeGreaterThan(0)
  }
})

test('Ctrl-C ends a command with 1 and no stack', async () => {
  const args = ['run', sampleModel, '--prompt', 'The', '--max-new-tokens', '250', '--temperature', '1']
  const { code, stderr } = await runCli(args, {}, /./)
  expect(code).toBe(1)
  expect(stderr).toBe('interrupted\n')
})

describe('quantize', () => {
  const out = path.join(os.tmpdir(), `smoe-cli-quantize-${process.pid}`)
  afterAll(() => fs.rmSync(out, { recursive: true, force: true }))

  test('writes a checkpoint that eval reads, and reports it as a table or as JSON', async () => {
    const table = await runCli(['quantize', sampleModel, '--format', 'w3', '--asym', '--out', out])
    expect(table.code).toBe(0)
    expect(table.stdout).toMatch(/^layer +experts +bits/)
    expect(table.stdout).toMatch(/16 w3/)
    const args = [
      '--text',
      slice,
      '--context',
      '128',
      '--limit-tokens',
      '1280',
      '--precision',
      'exact',
      '--json',
    ]
    const perplexity = async (...more: string[]) => {
      const { stdout, code } = await runCli(['eval', ...more, ...args])
      expect(code).toBe(0)
      return (JSON.parse(stdout) as { perplexity: number }).perplexity
    }
    const [stored, plain, rounded] = [
      await perplexity(out),
      await perplexity(sampleModel),
      await perplexity(sampleModel, '--format', 'w3'),
    ]
    expect(stored).toBeGreaterThan(plain)
    expect(stored).toBeLessThan(plain * 1.06)
    // The scale search of `quantize` is another choice of scales than plain rounding.
    expect(stored).not.toBe(rounded)
    const again = await runCli(['quantize', sampleModel, '--out', out])
    expect(again.code).toBe(1)
    expect(again.stderr).toMatch(/exists already.*ERR_SMOE_FILE_WRITE/)
  }, 60_000)

  test('says per layer what was chosen and what else there was', async () => {
    const dir = `${out}-layers`
    const args = [
      '--bits',
      '2.5',
      '--allocate',
      'layer',
      '--smooth',
      'awq',
      '--align-router',
      '--method',
      'mse',
    ]
    const { code, stdout } = await runCli([
      'quantize',
      sampleModel,
      ...args,
      '--text',
      slice,
      '--tokens',
      '512',
      '--out',
      dir,
    ])
    fs.rmSync(dir, { recursive: true, force: true })
    expect(code).toBe(0)
    expect(stdout).toMatch(/^layer +experts +bits +error w2 +error w3 +error w4 .* gain +router clip/)
    expect(stdout.match(/^ *\d+ +16 w[234] +[234]\.00 +0\.\d{4}/gm)).toHaveLength(6)
  }, 120_000)

  test.each([
    ['no --out', ['quantize', 'somewhere']],
    ['--method gptq without --text', ['quantize', 'somewhere', '--method', 'gptq', '--out', 'x']],
    ['--bits without --text', ['quantize', 'somewhere', '--bits', '2.5', '--out', 'x']],
    ['--bits and --format', ['quantize', 'a', '--bits', '2', '--format', 'w4', '--text', 't', '--out', 'x']],
    ['--method awq without --text', ['quantize', 'somewhere', '--method', 'awq', '--out', 'x']],
    ['--smooth without --text', ['quantize', 'somewhere', '--smooth', 'eaquant', '--out', 'x']],
    ['--align-router without --text', ['quantize', 'somewhere', '--align-router', '--out', 'x']],
    ['--allocate without --bits', ['quantize', 'somewhere', '--allocate', 'layer', '--out', 'x']],
    ['an unknown codebook', ['quantize', 'somewhere', '--codebook', 'nf3', '--out', 'x']],
    ['an unknown format', ['quantize', 'somewhere', '--format', 'w5', '--out', 'x']],
  ])('%s is a usage error', async (_, args) => {
    const { code, stdout, stderr } = await runCli(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).not.toBe('')
  })
})
