// Negative log-likelihood of the next tokens: one block per row of logits.
#pragma once

#include <math.h>

#include "cuda/cu.h"
#include "kernels/logits/logits_args.h"

namespace smoe::cu {

constexpr int kNllThreads = 512, kNllWarps = kNllThreads / 32;

// exp in f32, as the CPU takes it, of differences of at most 0; the sum in double, because a long tail of small terms
// must add up. Order: a thread's elements ascending, lanes as a tree, warps ascending. NaN anywhere gives NaN.
SMOE_KERNEL(kNllThreads, 1) nll(NllArgs args) {
  SMOE_SMEM(float, tops, kNllWarps);
  SMOE_SMEM(double, sums, kNllWarps);
  pdl_wait();
  const int64_t row = bid();
  const float* const logits = args.logits + off(row, args.vocab);
  float top = -INFINITY;
  SMOE_UNROLL4
  for (int64_t i = tid(); i < args.vocab; i += kNllThreads) top = fmaxf(top, ldg(logits + i));
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) top = fmaxf(top, shfl_xor(top, bits));
  if (lane() == 0) sts(tops + warp(), top);
  sync();
  for (int w = 0; w < kNllWarps; ++w) top = fmaxf(top, lds(tops + w));
  double sum = 0;
  SMOE_UNROLL4
  for (int64_t i = tid(); i < args.vocab; i += kNllThreads) sum += static_cast<double>(expf(ldg(logits + i) - top));
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) sum += shfl_xor(sum, bits);
  if (lane() == 0) sts(sums + warp(), sum);
  sync();
  if (tid() == 0) {
    sum = 0;
    for (int w = 0; w < kNllWarps; ++w) sum += lds(sums + w);
    const float target = ldg(logits + ldg(args.targets + row));
    stg(args.nll + row, log(sum) + (static_cast<double>(top) - static_cast<double>(target)));
  }
  pdl_trigger();
}

}  // namespace smoe::cu
