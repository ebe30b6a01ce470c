// Writing a value as planes of bf16 (operands.h).
#pragma once

#include "cuda/cu.h"
#include "cuda/operands.h"

namespace smoe::cu {

// Part p rounds what the parts before it left over; the differences are exact.
SMOE_DEVICE void store_parts(const Planes& planes, int64_t at, float value) {
  SMOE_UNROLL1
  for (int p = 0; p < planes.parts; ++p) {
    const bf16 part = to_bf16(value);
    stg(planes.data + off(p, planes.step) + at, part);
    value -= to_float(part);
  }
}

// Two neighbours as one store; `at` and the step are even.
SMOE_DEVICE void store_parts2(const Planes& planes, int64_t at, float low, float high) {
  SMOE_UNROLL1
  for (int p = 0; p < planes.parts; ++p) {
    const uint32_t pair = round_bf16x2(low, high);
    stg(reinterpret_cast<uint32_t*>(planes.data + off(p, planes.step) + at), pair);
    low -= to_float(half_of(pair, 0));
    high -= to_float(half_of(pair, 1));
  }
}

}  // namespace smoe::cu
