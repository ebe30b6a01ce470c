import type { Family } from './architecture'
import { type ConfigReader, unsupported } from './config'
import { deepseekV2, deepseekV3 } from './families/deepseek'
import { gptOss } from './families/gpt_oss'
import { mixtral } from './families/mixtral'
import { olmoe } from './families/olmoe'
import { qwen2Moe } from './families/qwen2_moe'
import { qwen3Moe } from './families/qwen3_moe'

const families: ReadonlyMap<string, Family> = new Map(
  [deepseekV2, deepseekV3, gptOss, mixtral, olmoe, qwen2Moe, qwen3Moe].map((family) => [
    family.modelType,
    family,
  ]),
)

/** `model_type`s that can be loaded. */
export function supportedModelTypes(): string[] {
  return [...families.keys()]
}

/** @throws SmoeError ERR_SMOE_UNSUPPORTED_ARCHITECTURE listing what is known */
export function findFamily(config: ConfigReader): Family {
  const type = config.string('model_type')
  const family = families.get(type)
  if (family !== undefined) return family
  throw unsupported(
    `model_type '${type}' in ${config.file} is not supported; known: ${supportedModelTypes().join(', ')}`,
  )
}
