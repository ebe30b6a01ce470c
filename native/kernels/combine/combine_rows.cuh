// P5: weighted sum of a token's rows, shared output, residual and momentum (specs/cuda-kernels.md 2.7, 2.10). A gather,
// not a scatter: nobody else writes the token's columns, and the experts are added in ascending order of id, as K3
// does.
#pragma once

#include "kernels/combine/residual_step.cuh"
#include "kernels/experts/expert_args.h"

namespace smoe::cu {

constexpr int kCombineThreads = 256, kCombineEach = 8;
constexpr int kCombineColumns = kCombineThreads * kCombineEach;  // of a block

struct Eight {
  float x[kCombineEach];
};
SMOE_DEVICE Eight load_eight(const bf16* p) {
  const U32x4 v = ldg(reinterpret_cast<const U32x4*>(p));
  Eight out;
  SMOE_UNROLL
  for (int i = 0; i < kCombineEach; ++i) out.x[i] = to_float(half_of(v.x[i / 2], i % 2));
  return out;
}
SMOE_DEVICE Eight load_eight(const float* p) {
  const U32x4 low = ldg(reinterpret_cast<const U32x4*>(p)), high = ldg(reinterpret_cast<const U32x4*>(p + 4));
  Eight out;
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    out.x[i] = bit_cast<float>(low.x[i]);
    out.x[4 + i] = bit_cast<float>(high.x[i]);
  }
  return out;
}
SMOE_DEVICE float widen(bf16 x) { return to_float(x); }
SMOE_DEVICE float widen(float x) { return x; }

// Rows and weights of the token's used slots, in ascending order of expert id: how many. By the whole block. A slot's
// place is the number of slots that come before it; slots are few.
SMOE_DEVICE int order_slots(const CombineRowsArgs& args, int64_t token, int* row, float* weight, int* id, int* used) {
  if (tid() == 0) sts(used, 0);
  sync();
  const int64_t first = off(token, args.slots);
  for (int j = tid(); j < args.slots; j += nthreads()) {
    const bool real = ldg(args.position + first + j) >= 0;
    sts(id + j, real ? ldg(args.ids + first + j) : -1);
    if (real) atomic_add_shared(used, 1);
  }
  sync();
  for (int j = tid(); j < args.slots; j += nthreads()) {
    const int mine = lds(id + j);
    if (mine < 0) continue;
    int place = 0;
    for (int other = 0; other < args.slots; ++other) {
      const int theirs = lds(id + other);
      place += theirs >= 0 && (theirs < mine || (theirs == mine && other < j)) ? 1 : 0;
    }
    sts(row + place, ldg(args.position + first + j));
    sts(weight + place, args.weights != nullptr ? ldg(args.weights + first + j) : 1.0f);
  }
  sync();
  return lds(used);
}

inline size_t combine_shared_bytes(int slots) {
  return (static_cast<size_t>(kCombineColumns) + static_cast<size_t>(slots) * 3) * 4;
}
inline int64_t combine_columns_blocks(int64_t hidden) { return (hidden + kCombineColumns - 1) / kCombineColumns; }

// Y: bf16 or f32. wide: hidden is a multiple of 8, so that rows are read 16 bytes at a time; the sums then pass through
// shared memory, since residual and state are read element by element, which is whole sectors only across lanes.
template <class Y, bool wide>
SMOE_KERNEL(kCombineThreads, 2)
combine_rows(CombineRowsArgs args) {
  SMOE_SMEM_DYN(float, sums);
  SMOE_SMEM(int, used, 1);
  float* const weight = sums + kCombineColumns;
  int* const row = reinterpret_cast<int*>(weight + args.slots);
  pdl_wait();
  const int parts = static_cast<int>((args.hidden + kCombineColumns - 1) / kCombineColumns);
  const int64_t token = bid() / parts, column0 = off(bid() % parts, kCombineColumns);
  const int count = order_slots(args, token, row, weight, row + args.slots, used);
  const Y* y;
  if constexpr (sizeof(Y) == 2) {
    y = args.y;
  } else {
    y = args.y_f32;
  }
  const int columns =
      static_cast<int>(args.hidden - column0 < kCombineColumns ? args.hidden - column0 : kCombineColumns);
  if constexpr (wide) {
    const int at = tid() * kCombineEach;
    if (at < columns) {
      Eight sum = {};
      SMOE_UNROLL4
      for (int j = 0; j < count; ++j) {
        const Eight value = load_eight(y + off(lds(row + j), args.hidden) + column0 + at);
        const float factor = lds(weight + j);
        SMOE_UNROLL
        for (int i = 0; i < kCombineEach; ++i) sum.x[i] = fma(factor, value.x[i], sum.x[i]);
      }
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        U32x4 out;
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) out.x[i] = bit_cast<uint32_t>(sum.x[4 * half + i]);
        sts(reinterpret_cast<U32x4*>(sums + at + 4 * half), out);
      }
    }
    sync();
  }
  pdl_trigger();
  for (int i = tid(); i < columns; i += nthreads()) {
    float sum = 0;
    if constexpr (wide) {
      sum = lds(sums + i);
    } else {
      for (int j = 0; j < count; ++j) {
        sum = fma(lds(weight + j), widen(ldg(y + off(lds(row + j), args.hidden) + column0 + i)), sum);
      }
    }
    const int64_t at = off(token, args.hidden) + column0 + i;
    if (args.shared != nullptr) {
      sum = fma(args.shared_scale != nullptr ? ldg(args.shared_scale + token) : 1.0f, ldg(args.shared + at), sum);
    }
    if (args.update_out != nullptr) stg(args.update_out + at, sum);
    stg(args.out + at, residual_step(args.step, args.state, args.residual, at, sum));
  }
}

}  // namespace smoe::cu
