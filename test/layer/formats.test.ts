import { MoeLayer, Tensor, type WeightFormat } from '../../lib'
import { onCuda } from '../helpers/device'
import { expertOfValues, values } from '../helpers/layers'
import { relativeError } from '../helpers/numbers'

const hidden = 128
const width = 64

async function run(formats: (WeightFormat | undefined)[], options: object = {}) {
  const layer = await MoeLayer.create({
    router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 }, weigh: {} },
    routerWeight: values([formats.length, hidden], 1),
    experts: formats.map((format, i) => ({
      ...expertOfValues(i, width, hidden),
      ...(format === undefined ? {} : { format }),
      ...options,
    })),
  })
  const out = (await layer.forward(values([5, hidden], 99))).data() as Float32Array
  const { native, device } = layer.memoryUsage()
  const bytes = native + device
  layer.dispose()
  return { out, bytes }
}

describe('quantized experts', () => {
  // Three matrices, each with the relative error of its format (0.0065, 0.107, ...), about add up in squares.
  const formats: [WeightFormat, number, number][] = [
    ['w8', 0.03, 8.125],
    ['w4', 0.4, 4.25],
    ['w4c', 0.4, 4.5],
    ['f8', 0.1, 8.5],
    ['t2', 1.5, 3],
  ]
  it.each(formats)(
    '%s stays near f32 and takes about as many bits as it says',
    async (format, error, bits) => {
      const plain = await run([undefined, undefined, undefined])
      const quantized = await run([format, format, format])
      expect(relativeError(quantized.out, plain.out)).toBeLessThan(error)
      const weights = 9 * hidden * width
      const router = 3 * hidden * 4
      if (onCuda) return // laid out for tensor cores, padded more
      expect(quantized.bytes - router).toBeLessThan((weights * bits) / 8 + 8192)
      expect(quantized.bytes).toBeLessThan(plain.bytes)
    },
  )

  it('takes a different format for every expert, and another one for down', async () => {
    const plain = await run([undefined, undefined, undefined])
    const mixed = await run(['w8', 'bf16', 'f8'], { downFormat: 'w8' })
    expect(relativeError(mixed.out, plain.out)).toBeLessThan(0.1)
  })

  it('refuses what a format does not take', async () => {
    await expect(run(['w5' as WeightFormat, 'w8'])).rejects.toThrow('experts[0].format')
    await expect(run(['w4', 'w4'], { group: 48 })).rejects.toMatchObject({
      code: 'ERR_SMOE_INVALID_QUANTIZATION',
    })
    await expect(run(['t2', 't2'], { asym: true })).rejects.toMatchObject({
      code: 'ERR_SMOE_INVALID_QUANTIZATION',
    })
  })
})

describe('bit-nested experts served at fewer bits', () => {
  const experts = 4
  const create = (format: WeightFormat) =>
    MoeLayer.create({
      router: { score: { act: 'softmax' }, select: { kind: 'topK', k: 2 }, weigh: {} },
      routerWeight: values([experts, hidden], 1),
      experts: Array.from({ length: experts }, (_, i) => ({
        gate: values([width, hidden], 10 + i),
        up: values([width, hidden], 20 + i),
        down: values([hidden, width], 30 + i),
        format,
      })),
      precision: 'exact',
    })
  const x = values([6, hidden], 99)
  const floats = (tensor: Tensor) => tensor.data() as Float32Array

  it('comes nearer with every plane, per call, without another copy', async () => {
    const plain = await create('f32')
    const nested = await create('wn')
    const bytes = nested.memoryUsage().native
    const exact = floats(await plain.forward(x))
    const errors: number[] = []
    for (const bits of [2, 3, 4])
      errors.push(relativeError(floats(await nested.forward(x, { expertBits: bits })), exact))
    expect(errors[2]).toBeLessThan(errors[1]! * 0.8)
    expect(errors[1]).toBeLessThan(errors[0]! * 0.8)
    // All planes are the default, and more than there are is all of them.
    const all = floats(await nested.forward(x))
    expect(floats(await nested.forward(x, { expertBits: 4 }))).toEqual(all)
    expect(floats(await nested.forward(x, { expertBits: 8 }))).toEqual(all)
    expect(floats(nested.forwardSync(x, { expertBits: 4 }))).toEqual(all)
    expect(nested.memoryUsage().native).toBe(bytes)
    plain.dispose()
    nested.dispose()
  })

  it('takes other bits for each expert', async () => {
    const nested = await create('wn')
    const routing = {
      ids: Tensor.from(Int32Array.from([0, 1]), [2, 1], 'i32'),
      weights: Tensor.from([1, 1], [2, 1], 'f32'),
    }
    const two = Tensor.from(floats(x).slice(0, 2 * hidden), [2, hidden], 'f32')
    const run = async (expertBits: number | number[]) =>
      floats(await nested.forward(two, { routing, expertBits }))
    const [low, high, mixed] = [await run(2), await run(4), await run([2, 4, 3, 3])]
    expect(mixed.subarray(0, hidden)).toEqual(low.subarray(0, hidden))
    expect(mixed.subarray(hidden)).toEqual(high.subarray(hidden))
    expect(low).not.toEqual(high)
    nested.dispose()
  })

  it('does not concern other formats, and refuses what is no number of bits', async () => {
    const other = await create('w4')
    expect(floats(await other.forward(x, { expertBits: 2 }))).toEqual(floats(await other.forward(x)))
    await expect(other.forward(x, { expertBits: 1 })).rejects.toThrow(RangeError)
    await expect(other.forward(x, { expertBits: 9 })).rejects.toThrow(RangeError)
    await expect(other.forward(x, { expertBits: [2, 3] })).rejects.toThrow('expertBits.length')
    await expect(other.forward(x, { expertBits: [2, 3, 4, 2.5] })).rejects.toThrow('expertBits[3]')
    await expect(other.forward(x, { expertBits: 'all' as never })).rejects.toThrow(TypeError)
    other.dispose()
  })
})
