// After the projection of q, k and v: norm, clip, rotation, and k and v into the cache (finish_token of
// decoder/attention.cc). A warp takes a head, a block eight of one token; where the norm runs over all heads, a block
// takes all of q, of k or of v, because q is rewritten in place and nobody else may read it for the sum.
#pragma once

#include "kernels/attention/head_finish.cuh"
#include "kernels/attention/kv_pages.cuh"
#include "kernels/norm/prefetch.cuh"

namespace smoe::cu {

SMOE_HD int qkv_units(const QkvFinishArgs& args) {
  if (args.norm == HeadNorm::Full) return 3;
  return (args.heads + 2 * args.kv_heads + kFinishWarps - 1) / kFinishWarps;
}

// A lane's share of a head: rotated pairs (i, i + half), then single elements; visit(first, second or -1).
template <class Visit>
SMOE_DEVICE void each_pair(int dim, int half, Visit visit) {
  for (int i = lane(); i < dim - half; i += 32) visit(i < half ? i : i + half, i < half ? i + half : -1);
}

SMOE_DEVICE float lane_squares(const float* x, int dim, int half, float scale) {
  float squares = 0;
  each_pair(dim, half, [&](int first, int second) {
    const float a = ldg(x + first) * scale, b = second < 0 ? 0.0f : ldg(x + second) * scale;
    squares = fma(a, a, squares);
    squares = fma(b, b, squares);
  });
  return squares;
}

// The norm over heads [first, stop) of a row by the whole block; sums: [kFinishWarps] of shared memory.
SMOE_DEVICE NormFactor full_norm(const QkvFinishArgs& args, const float* row, int first, int stop, float* sums) {
  float scale = 1, squares = 0;
  for (int attempt = 0; attempt < 2; ++attempt) {
    squares = 0;
    for (int head = first + warp(); head < stop; head += kFinishWarps)
      squares += lane_squares(row + off(head, args.head_dim), args.head_dim, args.rope.half, scale);
    squares = warp_sum(squares);
    sync();  // the sums of the first attempt have been read
    if (lane() == 0) sts(sums + warp(), squares);
    sync();
    squares = 0;
    for (int w = 0; w < kFinishWarps; ++w) squares += lds(sums + w);
    if (squares <= 3.402823466e38f) break;  // the same in every thread
    scale = kNormRescue;
  }
  return norm_factor(squares, scale, off(stop - first, args.head_dim), args.norm_eps);
}

SMOE_DEVICE NormFactor head_norm(const QkvFinishArgs& args, const float* x) {
  float scale = 1;
  float squares = warp_sum(lane_squares(x, args.head_dim, args.rope.half, scale));
  if (!(squares <= 3.402823466e38f)) {
    scale = kNormRescue;
    squares = warp_sum(lane_squares(x, args.head_dim, args.rope.half, scale));
  }
  return norm_factor(squares, scale, args.head_dim, args.norm_eps);
}

template <class T>
SMOE_KERNEL(kFinishThreads, 2)
qkv_finish(QkvFinishArgs args) {
  SMOE_SMEM_DYN(float, angles);
  SMOE_SMEM(float, sums, kFinishWarps);
  const int units = qkv_units(args), unit = bid() % units, all = args.heads + 2 * args.kv_heads;
  const int64_t token = bid() / units, tokens = ldg(&args.step->tokens);
  const int64_t position = int64_t{ldg(&args.step->position)} + token;
  const bool full = args.norm == HeadNorm::Full;
  if (token == 0) {
    prefetch_constants(args.q_norm, full ? off(args.heads, args.head_dim) : args.head_dim);
    prefetch_constants(args.k_norm, full ? off(args.kv_heads, args.head_dim) : args.head_dim);
  }
  make_angles(args.rope, position, angles);
  pdl_wait();
  pdl_trigger();
  if (token >= tokens) return;
  const int k_head = args.heads, v_head = args.heads + args.kv_heads;
  const int first = !full ? unit * kFinishWarps : unit == 0 ? 0 : unit == 1 ? k_head : v_head;
  const int last = !full ? first + kFinishWarps : unit == 0 ? k_head : unit == 1 ? v_head : all;
  const int stop = last < all ? last : all, dim = args.head_dim, half = args.rope.half;
  sync();
  float* const row = args.qkv + off(token, off(all, dim));
  NormFactor factor;
  if (full && first < v_head) factor = full_norm(args, row, first, stop, sums);
  T* const part = kv_part<T>(args.cache, position / kPageTokens);
  const int slot = static_cast<int>(position % kPageTokens);
  for (int head = first + warp(); head < stop; head += kFinishWarps) {
    float* const x = row + off(head, dim);
    const bool is_q = head < k_head, is_v = head >= v_head, normed = args.norm != HeadNorm::None && !is_v;
    if (normed && !full) factor = head_norm(args, x);
    const float* weight = nullptr;
    if (normed) weight = (is_q ? args.q_norm : args.k_norm) + (full ? off(head - first, dim) : 0);
    T* to = nullptr;
    if (is_v)
      to = value_row(args.cache, part, head - v_head, slot);
    else if (!is_q)
      to = key_row(args.cache, part, head - k_head, slot);
    const auto load = [&](int i) {
      float value = ldg(x + i);
      if (normed) value = value * factor.scale * factor.root * ldg(weight + i);
      // As std::min(std::max(x, -limit), limit), which lets NaN through.
      if (args.clip > 0) value = value < -args.clip ? -args.clip : value > args.clip ? args.clip : value;
      return value;
    };
    const auto store = [&](int i, float value) {
      if (is_q)
        stg(x + i, value);
      else
        put_element(to + i, value);
    };
    each_pair(dim, half, [&](int i, int j) {
      const float a = load(i);
      if (j < 0 || is_v) {
        store(i, a);
        if (j >= 0) store(j, load(j));
        return;
      }
      const float b = load(j), c = lds(angles + i), s = lds(angles + half + i);
      store(i, a * c - b * s);
      store(j, b * c + a * s);
    });
  }
}

}  // namespace smoe::cu
