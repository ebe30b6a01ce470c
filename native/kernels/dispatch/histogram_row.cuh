// One row of the histogram of a dispatch (specs/cuda-kernels.md 2.7): how many pairs of a block of tokens go to each
// expert. Shared by P1, which routes the tokens first, and by the histogram of given assignments.
#pragma once

#include "cuda/cu.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

constexpr int kManyThreads = 256;
static_assert(kRouteManyTokens == 32, "one bit per token of a block");

// The pairs of a block's tokens.
struct PairRange {
  int64_t begin, end;
};
SMOE_DEVICE PairRange many_pairs(int64_t tokens, int slots) {
  const int64_t first = off(bid(), kRouteManyTokens), last = first + kRouteManyTokens;
  return {off(first < tokens ? first : tokens, slots), off(last < tokens ? last : tokens, slots)};
}

// One row of the histogram, by the whole block. counts: E integers of shared memory; sums of integers do not depend on
// their order.
SMOE_DEVICE void histogram_row(const int32_t* ids, int64_t tokens, int slots, int experts, int* counts,
                               int32_t* histogram) {
  for (int e = tid(); e < experts; e += nthreads()) sts(counts + e, 0);
  sync();
  const PairRange pairs = many_pairs(tokens, slots);
  for (int64_t i = pairs.begin + tid(); i < pairs.end; i += nthreads()) {
    const int id = ldg(ids + i);
    if (id >= 0 && id < experts) atomic_add_shared(counts + id, 1);
  }
  sync();
  for (int e = tid(); e < experts; e += nthreads()) stg(histogram + off(bid(), experts) + e, lds(counts + e));
}

}  // namespace smoe::cu
