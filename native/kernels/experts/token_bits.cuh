// Tokens of an expert as bits of a mask.
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

// Position of the n-th (from 0) set bit.
SMOE_DEVICE int nth_bit(uint64_t mask, int n) {
  for (int i = 0; i < n; ++i) mask &= mask - 1;
  return ffs(mask) - 1;
}

}  // namespace smoe::cu
