import path from 'node:path'

const root = path.join(__dirname, '..', '..')

export const hf = (name: string) => path.join(root, 'test', 'fixtures', 'hf', name)
export const families = ['qwen3_moe', 'qwen2_moe', 'mixtral', 'olmoe'] as const
export const plainModel = path.join(root, 'test', 'fixtures', 'models', 'smoe-wikitext')
export const momentumModel = path.join(root, 'examples', 'momentum-wikitext')
export const slice = path.join(root, 'examples', 'wikitext-2-slice.txt')
export const testSplit = path.join(root, 'test', 'fixtures', 'wikitext-2', 'test.txt')
export const quantized = (name: string) => path.join(root, 'test', 'fixtures', 'quantized', name)
