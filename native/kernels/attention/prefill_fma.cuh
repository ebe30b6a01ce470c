// Attention of many rows over an f32 cache with f32 multiply-adds: Precision::Exact. Online softmax (Milakov and
// Gimelshein, arXiv:1805.02867) over tiles of 64 rows by 64 keys, which are a page.
//
// A tile is a run of steps: products of 32 elements of queries and keys each, then 16 keys' values each. What a step
// reads is copied to shared memory while the step before it runs, so that any width fits in two buffers.
#pragma once

#include "kernels/attention/prefill_rows.cuh"

namespace smoe::cu {

constexpr int kFmaRows = 64, kFmaThreads = 256;
constexpr int kDotStep = 32, kDotStride = kDotStep + 4;  // 144 bytes: eight rows' 16-byte reads meet no bank twice
constexpr int kMixStep = 16, kMixSteps = kPageTokens / kMixStep;
constexpr int kFmaWeightStride = kFmaRows + 4;

// VC: 64s of columns of the result.
template <int VC>
struct FmaShape {
  static constexpr int kDot = (kFmaRows + kPageTokens) * kDotStride, kMix = kMixStep * 64 * VC;
  static constexpr int kStage = kDot > kMix ? kDot : kMix;
};
template <int VC>
size_t fma_shared_bytes() {
  return (2 * static_cast<size_t>(FmaShape<VC>::kStage) + kPageTokens * kFmaWeightStride) * sizeof(float);
}

// Four floats into shared memory, zeros past `count`; all of them at once where rows are aligned.
SMOE_DEVICE void load_four(float* to, const float* from, int count, bool aligned, const float* anywhere) {
  if (aligned) {
    cp16(to, count > 0 ? from : anywhere, count > 0);
  } else {
    for (int i = 0; i < 4; ++i) sts(to + i, i < count ? ldg(from + i) : 0.0f);
  }
}

// What the copies of one thread need. A thread copies elements 4 * (tid % 8) of rows tid / 8 and tid / 8 + 32.
struct FmaSource {
  const float* q[2];  // null: zeros
  const float *keys, *values;
  int low, high;  // keys of the tile that some row sees
  bool q_aligned, keys_aligned, values_aligned;
};

SMOE_DEVICE FmaSource fma_source(const AttendArgs& args, const RowBlock& block) {
  FmaSource in = {};
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = tid() / 8 + 32 * i;
    if (block.real(row))
      in.q[i] =
          args.q + off(block.token0 + block.token_of(row), args.q_stride) + off(block.head_of(row), args.cache.key_dim);
  }
  const bool pages = args.cache.layer_offset % 16 == 0, keys = args.cache.key_dim % 4 == 0;
  in.q_aligned = keys && args.q_stride % 4 == 0 && reinterpret_cast<uintptr_t>(args.q) % 16 == 0;
  in.keys_aligned = pages && keys;
  in.values_aligned = pages && args.value_dim % 4 == 0 && (args.cache.value_dim != 0 || keys);
  return in;
}

SMOE_DEVICE void to_tile(const AttendArgs& args, const RowBlock& block, int64_t tile, FmaSource* in) {
  float* const part = kv_part<float>(args.cache, tile);
  const int64_t at = tile * kPageTokens;
  in->keys = key_row(args.cache, part, block.kv_head, 0);
  in->values = value_row(args.cache, part, block.kv_head, 0);
  in->low = static_cast<int>(block.low > at ? block.low - at : 0);
  in->high = static_cast<int>(block.high - at < kPageTokens ? block.high - at : kPageTokens);
}

// Elements [from, from + 32) of the queries and of the keys.
SMOE_DEVICE void load_dots(const AttendArgs& args, const FmaSource& in, int from, float* stage) {
  const int dim = args.cache.key_dim, at = from + 4 * (tid() % 8);
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = tid() / 8 + 32 * i;
    float* const to = stage + row * kDotStride + 4 * (tid() % 8);
    load_four(to, in.q[i] + at, in.q[i] != nullptr ? dim - at : 0, in.q_aligned, args.q);
    load_four(to + kFmaRows * kDotStride, in.keys + off(row, dim) + at, row >= in.low && row < in.high ? dim - at : 0,
              in.keys_aligned, in.keys);
  }
}

// The values of keys [from, from + 16).
template <int VC>
SMOE_DEVICE void load_values(const AttendArgs& args, const FmaSource& in, int from, float* stage) {
  const int step = args.cache.value_dim == 0 ? args.cache.key_dim : args.cache.value_dim;
  SMOE_UNROLL
  for (int i = 0; i < VC; ++i) {
    const int chunk = tid() + i * kFmaThreads, key = from + chunk / (16 * VC), at = chunk % (16 * VC) * 4;
    load_four(stage + 4 * chunk, in.values + off(key, step) + at,
              key >= in.low && key < in.high ? args.value_dim - at : 0, in.values_aligned, in.values);
  }
}

SMOE_DEVICE Four lds_four(const float* from) { return bit_cast<Four>(lds(reinterpret_cast<const U32x4*>(from))); }

// s += queries * keys over the step's 32 elements.
SMOE_DEVICE void dot_step(const float* stage, int ty, int tx, float (&s)[4][4]) {
  const float *const q = stage + 4 * ty * kDotStride, *const k = stage + (kFmaRows + tx) * kDotStride;
  SMOE_UNROLL
  for (int at = 0; at < kDotStep; at += 4) {
    Four a[4], b[4];
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) {
      a[i] = lds_four(q + i * kDotStride + at);
      b[i] = lds_four(k + 16 * i * kDotStride + at);
    }
    SMOE_UNROLL
    for (int e = 0; e < 4; ++e) {
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        SMOE_UNROLL
        for (int j = 0; j < 4; ++j) s[i][j] = fma(a[i].x[e], b[j].x[e], s[i][j]);
      }
    }
  }
}

// Scores become exponentials, which go to shared memory, -0 for keys that a row does not see; older sums are taken to
// the new largest score.
template <int VC>
SMOE_DEVICE void soften_tile(const AttendArgs& args, const RowBlock& block, int64_t from, bool partly, int ty, int tx,
                             float (&s)[4][4], float (&top)[4], float (&total)[4], float (&acc)[VC][4][4],
                             float* weights) {
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Visible sees = visible_of(block, block.token_of(4 * ty + i), args.window);
    float largest = top[i];
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t key = from + tx + 16 * j;
      s[i][j] = !partly || (key >= sees.begin && key < sees.end) ? s[i][j] * args.scale : -INFINITY;
      largest = fmaxf(largest, s[i][j]);
    }
    SMOE_UNROLL
    for (int bits = 8; bits > 0; bits /= 2) largest = fmaxf(largest, shfl_xor(largest, bits));
    // A row that has seen nothing yet: 0 in place of -inf, whose differences are NaN.
    const float base = largest == -INFINITY ? 0.0f : largest, factor = expf(top[i] - base);
    top[i] = largest;
    float sum = 0;
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t key = from + tx + 16 * j;
      s[i][j] = !partly || (key >= sees.begin && key < sees.end) ? expf(s[i][j] - base) : -0.0f;
      sum += s[i][j];
    }
    total[i] = fma(total[i], factor, sum);
    SMOE_UNROLL
    for (int c = 0; c < VC; ++c) {
      SMOE_UNROLL
      for (int j = 0; j < 4; ++j) acc[c][i][j] *= factor;
    }
  }
  SMOE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const Four column = {{s[0][j], s[1][j], s[2][j], s[3][j]}};
    sts(reinterpret_cast<U32x4*>(weights + (tx + 16 * j) * kFmaWeightStride + 4 * ty), bit_cast<U32x4>(column));
  }
}

// acc += weights * values of 16 keys. partly: those of weight -0 are left out, because a weight of 0 does not shield a
// row from an infinity or NaN in values that it does not see.
template <int VC, bool partly>
SMOE_DEVICE void mix_step(const float* stage, const float* weights, int ty, int tx, float (&acc)[VC][4][4]) {
  SMOE_UNROLL4
  for (int key = 0; key < kMixStep; ++key) {
    const Four p = lds_four(weights + key * kFmaWeightStride + 4 * ty);
    SMOE_UNROLL
    for (int c = 0; c < VC; ++c) {
      const Four v = lds_four(stage + key * 64 * VC + 64 * c + 4 * tx);
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (partly && bit_cast<uint32_t>(p.x[i]) == 0x80000000u) continue;
        SMOE_UNROLL
        for (int j = 0; j < 4; ++j) acc[c][i][j] = fma(p.x[i], v.x[j], acc[c][i][j]);
      }
    }
  }
}

// A thread has rows 4 * ty + i; of the scores, keys tx + 16 * j; of the result, columns 64 * c + 4 * tx + j.
template <int VC>
SMOE_KERNEL(kFmaThreads, 1)
prefill_fma(AttendArgs args) {
  using S = FmaShape<VC>;
  SMOE_SMEM_DYN(float, shared);
  pdl_wait();
  const RowBlock block = row_block(args, kFmaRows);
  if (block.tokens == 0) return;
  float* const weights = shared + 2 * S::kStage;  // [keys][rows]
  const int ty = tid() / 16, tx = tid() % 16, dots = (args.cache.key_dim + kDotStep - 1) / kDotStep;
  const int64_t first = block.low / kPageTokens, stop = (block.high - 1) / kPageTokens + 1;
  FmaSource in = fma_source(args, block);
  to_tile(args, block, first, &in);
  load_dots(args, in, 0, shared);
  cp_commit();
  float acc[VC][4][4] = {}, top[4], total[4];
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    top[i] = -INFINITY;
    total[i] = 0;
  }
  float *stage = shared + S::kStage, *next = shared;
  const auto turn = [&] {
    float* const other = stage;
    stage = next;
    next = other;
    cp_wait<0>();
    sync();  // the step's operands are here, and everybody has left the buffer of the step before
  };
  for (int64_t tile = first; tile < stop; ++tile) {
    const int64_t at = tile * kPageTokens;
    const bool partly = partly_visible(block, args.window, at, kPageTokens);
    float s[4][4] = {};
    for (int step = 1; step <= dots; ++step) {
      turn();
      if (step < dots)
        load_dots(args, in, step * kDotStep, next);
      else
        load_values<VC>(args, in, 0, next);
      cp_commit();
      dot_step(stage, ty, tx, s);
    }
    soften_tile<VC>(args, block, at, partly, ty, tx, s, top, total, acc, weights);
    for (int key = 0; key < kPageTokens; key += kMixStep) {
      turn();
      if (key + kMixStep < kPageTokens) {
        load_values<VC>(args, in, key + kMixStep, next);
      } else if (tile + 1 < stop) {
        to_tile(args, block, tile + 1, &in);
        load_dots(args, in, 0, next);
      }
      cp_commit();
      const float* const from = weights + key * kFmaWeightStride;
      if (partly)
        mix_step<VC, true>(stage, from, ty, tx, acc);
      else
        mix_step<VC, false>(stage, from, ty, tx, acc);
    }
  }
  pdl_trigger();
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    SMOE_UNROLL
    for (int bits = 8; bits > 0; bits /= 2) total[i] += shfl_xor(total[i], bits);
  }
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * ty + i;
    if (!block.real(row)) continue;
    float factor = 1;
    if (args.sinks != nullptr) {
      const float sink = ldg(args.sinks + block.head_of(row)), largest = fmaxf(top[i], sink);
      factor = expf(top[i] - largest);
      total[i] = fma(total[i], factor, expf(sink - largest));
    }
    SMOE_UNROLL
    for (int c = 0; c < VC; ++c) {
      float four[4];
      // The zero of a tile that a row did not see has a sign; adding 0 takes it away.
      SMOE_UNROLL
      for (int j = 0; j < 4; ++j) four[j] = fma(acc[c][i][j], factor, 0.0f) / total[i];
      store_results(args, block.token0 + block.token_of(row), block.head_of(row), 64 * c + 4 * tx, four);
    }
  }
}

}  // namespace smoe::cu
