import type { TensorSource } from '../../binding'
import { type Tensor, checkFloatTensor } from './tensor'

/** A weight tensor as the addon takes it: the array itself, which the addon copies before the call returns. */
export function weightSource(name: string, value: Tensor): TensorSource {
  const tensor = checkFloatTensor(name, value)
  return { data: tensor.data(), dtype: tensor.dtype, shape: [...tensor.shape] }
}
