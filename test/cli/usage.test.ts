import fs from 'node:fs'
import path from 'node:path'
import { runtimeInfo } from '../../lib'
import { temporaryFolder } from '../helpers/safetensors'
import { root, runCli, sampleModel } from './run_cli'

const folder = temporaryFolder()
const slice = path.join(root, 'examples', 'wikitext-2-slice.txt')
const out = path.join(folder, 'never')

// Values and combinations that no model could make right. The model is there: with another exit code it would be used.
const run = ['run', sampleModel, '--prompt-ids', '1', '--max-new-tokens', '1']
const quantize = ['quantize', sampleModel, '--out', out]
const text = ['--text', slice]
test.each([
  ['a device of no kind', [...run, '--device', 'gpu'], /cuda:N/],
  ['a device of five digits', [...run, '--device', 'cuda:12345'], /cuda:N/],
  ['an empty device', [...run, '--device', ''], /cuda:N/],
  ['a seed of 33 bits', [...run, '--seed', '4294967296'], /4294967295/],
  ['a top-k of 32 bits', [...run, '--top-k', '2147483648'], /2147483647/],
  ['9 expert bits', [...run, '--expert-bits', '9'], /2 to 8/],
  ['int8 activations in exact', [...run, '--activations', 'int8', '--precision', 'exact'], /--activations/],
  ['bf16 activations in exact', [...run, '--activations', 'bf16', '--precision', 'exact'], /--activations/],
  [
    'fewer tokens than a window',
    ['eval', sampleModel, ...text, '--context', '64', '--limit-tokens', '9'],
    /--limit/,
  ],
  [
    'int8 activations of an exact layer',
    ['bench', '--activations', 'int8', '--precision', 'exact'],
    /--activ/,
  ],
  ['more threads than CPUs', ['bench', '--shape', 'tiny', '--threads', '99999'], /--threads must be at most/],
  ['--overhead of a shape', ['bench', '--overhead', '--shape', 'tiny'], /--shape/],
  ['--overhead of a format', ['bench', '--overhead', '--format', 'w4'], /--format/],
  ['--overhead of tokens', ['bench', '--overhead', '--tokens', '1'], /--tokens/],
  ['--overhead in rounds', ['bench', '--overhead', '--rounds', '1'], /--rounds/],
  ['--overhead with activations', ['bench', '--overhead', '--activations', 'int8'], /--activations/],
  ['an empty --out', ['quantize', sampleModel, '--out', ''], /--out/],
  ['--planes without wn', [...quantize, '--planes', '3'], /--planes needs --format wn/],
  ['seven planes', [...quantize, '--format', 'wn', '--planes', '7'], /0 to 6/],
  ['--codebook without w4c', [...quantize, '--codebook', 'nf4'], /--codebook needs --format w4c/],
  ['--group with w4c', [...quantize, '--format', 'w4c', '--group', '32'], /group/],
  ['--method mse with w4c', [...quantize, '--format', 'w4c', '--method', 'mse'], /method/],
  ['hqq in a mix', [...quantize, '--bits', '2', '--method', 'hqq', ...text], /method/],
  ['hqq of ternary experts', [...quantize, '--format', 't2', '--method', 'hqq'], /--method hqq/],
  ['awq with other scales', [...quantize, '--method', 'awq', '--smooth', 'eaquant', ...text], /smooth/],
  ['--asym with t2', [...quantize, '--format', 't2', '--asym'], /--asym/],
  ['--asym with t5', [...quantize, '--format', 't5', '--asym'], /--asym/],
  ['--asym with w1', [...quantize, '--format', 'w1', '--asym'], /--asym/],
  ['--asym with w4c', [...quantize, '--format', 'w4c', '--asym'], /--asym/],
  ['--starved without --text', [...quantize, '--starved', 'layer'], /--starved needs --text/],
  ['--tokens without --text', [...quantize, '--tokens', '64'], /--tokens needs --text/],
])('%s: wrong usage, 2, named before any work', async (_, args, message) => {
  const { code, stdout, stderr } = await runCli(args)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(message)
  expect(fs.existsSync(out)).toBe(false)
})

test('the largest values of the ranges are taken', async () => {
  const largest = ['--seed', '4294967295', '--top-k', '2147483647', '--device', 'cpu']
  expect((await runCli([...run, '--temperature', '1', ...largest])).code).toBe(0)
  const { maxThreads } = runtimeInfo()
  expect((await runCli(['bench', '--overhead', '--threads', String(maxThreads)])).code).toBe(0)
})

test("a context above the model's is a failure of that model, 1", async () => {
  const { code, stderr } = await runCli(['eval', sampleModel, ...text, '--context', '100000'])
  expect(code).toBe(1)
  expect(stderr).toContain('[1, 256]')
})
