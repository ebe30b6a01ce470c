// Constants on their way before a kernel may read what it works on.
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

// [count] at p, null: nothing, into L2, by the whole block. Weights of norms are read behind a sum over the row, and
// nobody has read them since the token before: a latency of the memory each.
SMOE_DEVICE void prefetch_constants(const float* p, int64_t count) {
  if (p == nullptr) return;
  constexpr int kLine = 128 / static_cast<int>(sizeof(float));
  for (int64_t i = off(tid(), kLine); i < count; i += off(nthreads(), kLine)) prefetch_l2(p + i);
}

}  // namespace smoe::cu
