// Norms of rows with the look-ahead of momentum, as f32 and as planes for the tensor cores. The formulas, their rescue
// from overflow and their corrections are those of norm-inl.h.
#pragma once

#include <float.h>
#include <math.h>

#include "kernels/norm/norm_args.h"
#include "kernels/norm/planes.cuh"
#include "kernels/norm/prefetch.cuh"

namespace smoe::cu {

constexpr int kNormThreads = 512, kNormWarps = kNormThreads / 32;

struct BlockMoments {
  float sum, squares;  // of x * scale - shift
};

// The same bits in every thread: a thread's elements ascending, lanes as a tree, warps ascending. Relative error of the
// squares at most (width / 512 + 22) * 2^-24.
SMOE_DEVICE BlockMoments block_moments(const float* x, int64_t width, float scale, float shift, float* shared) {
  float sum = 0, squares = 0;
  SMOE_UNROLL4
  for (int64_t i = tid(); i < width; i += kNormThreads) {
    const float d = fma(ldg(x + i), scale, -shift);
    sum += d;
    squares = fma(d, d, squares);
  }
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) {
    sum += shfl_xor(sum, bits);
    squares += shfl_xor(squares, bits);
  }
  sync();  // an earlier call's sums have been read
  if (lane() == 0) {
    sts(shared + 2 * warp(), sum);
    sts(shared + 2 * warp() + 1, squares);
  }
  sync();
  BlockMoments all = {0, 0};
  for (int w = 0; w < kNormWarps; ++w) {
    all.sum += lds(shared + 2 * w);
    all.squares += lds(shared + 2 * w + 1);
  }
  return all;
}

// 0 for 0: a row of zeros with eps = 0 gives zeros and not NaN.
SMOE_DEVICE float inverse_root(float x) { return x == 0 ? 0.0f : 1 / sqrtf(x); }

// A block per row. out may be x: a thread reads and writes the same elements, after the sums.
SMOE_KERNEL(kNormThreads, 1) norm_rows(NormRowsArgs args) {
  SMOE_SMEM(float, shared, 2 * kNormWarps);
  const int64_t row = bid(), rows = args.num_tokens != nullptr ? ldg(args.num_tokens) : args.max_tokens;
  if (row == 0) {
    prefetch_constants(args.weight, args.width);
    prefetch_constants(args.bias, args.width);
  }
  pdl_wait();
  pdl_trigger();
  if (row >= rows) return;
  constexpr float kRescue = 0x1p-80f;  // kNormRescue of norm-inl.h
  const float* const x = args.x + off(row, args.x_stride);
  const float count = static_cast<float>(args.width);
  float scale = 1, mean = 0, delta = 0, factor = 1;
  if (args.kind == RowNorm::Rms) {
    BlockMoments moments = block_moments(x, args.width, scale, 0, shared);
    if (!(moments.squares <= FLT_MAX)) {
      scale = kRescue;
      moments = block_moments(x, args.width, scale, 0, shared);
    }
    factor = inverse_root(moments.squares / count + args.eps * scale * scale);
  } else if (args.kind == RowNorm::Layer) {
    mean = block_moments(x, args.width, scale, 0, shared).sum / count;
    BlockMoments deviation = block_moments(x, args.width, scale, mean, shared);
    if (!(deviation.squares <= FLT_MAX)) {
      scale = kRescue;
      mean = block_moments(x, args.width, scale, 0, shared).sum / count;
      deviation = block_moments(x, args.width, scale, mean, shared);
    }
    delta = deviation.sum / count;
    const float variance = deviation.squares / count - delta * delta;
    // Negative by rounding in a row of equal elements. A comparison and not fmaxf, which would swallow NaN.
    factor = inverse_root((variance < 0 ? 0.0f : variance) + args.eps * scale * scale);
  }
  SMOE_UNROLL4
  for (int64_t i = tid(); i < args.width; i += kNormThreads) {
    float y = (fma(ldg(x + i), scale, -mean) - delta) * factor;
    if (args.weight != nullptr) y *= ldg(args.weight + i);
    if (args.bias != nullptr) y += ldg(args.bias + i);
    const int64_t at = off(row, args.width) + i;
    if (args.look_ahead != nullptr) y = fma(args.look_ahead_factor, ldg(args.look_ahead + at), y);
    if (args.out != nullptr) stg(args.out + at, y);
    if (args.planes.data != nullptr) store_parts(args.planes, at, y);
  }
}

}  // namespace smoe::cu
