// Attention of few rows: a block takes one row, up to eight query heads of one KV head, and one split of the row's
// pages (flash decoding: Dao et al. 2023, "Flash-Decoding for long-context inference"; online softmax: Milakov and
// Gimelshein, arXiv:1805.02867, per page of 64 keys). Heads share what is read of the cache. All sums are f32 fma.
//
// A row's pages start with the one of its first visible key, so what is added in which order follows from its position,
// the window and the number of splits, not from the batch, nor from which heads share a block.
#pragma once

#include "kernels/attention/attention_args.h"
#include "kernels/attention/kv_pages.cuh"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

constexpr int kAttendWarps = 4, kAttendThreads = 32 * kAttendWarps;
constexpr int kWarpKeys = kPageTokens / kAttendWarps;  // of a page, for values and for scores
constexpr int kLaneKeys = kWarpKeys / 4;               // scores: eight lanes share a key

// Positions that a row sees, and the pages they lie on.
struct Span {
  int64_t begin, end, first_page, pages;
};
SMOE_DEVICE Span visible_span(int64_t position, int64_t window) {
  const int64_t end = position + 1, begin = window > 0 && end > window ? end - window : 0;
  const int64_t first = begin / kPageTokens;
  return {begin, end, first, (end - 1) / kPageTokens - first + 1};
}

SMOE_HD constexpr int round_up4(int n) { return (n + 3) / 4 * 4; }

// Queries, scores of two pages, two factors and (largest, sum) per head; in the end the sums of every warp.
template <int HG, int VT>
size_t attend_shared_bytes(int key_dim) {
  const int loop = HG * (round_up4(key_dim) + 2 * kPageTokens + 4), end = kAttendWarps * HG * VT * 128 + 2 * HG;
  return static_cast<size_t>(loop > end ? loop : end) * sizeof(float);
}

// Scores of this warp's 16 keys of a page with HG heads, into scores[head][key]; -inf for keys outside [low, high).
template <int HG, class T>
SMOE_DEVICE void score_page(const AttendArgs& args, T* part, int kv_head, int low, int high, int heads, const float* q,
                            float* scores) {
  const int dim = args.cache.key_dim, width = round_up4(dim);
  const bool whole = dim % 4 == 0;
  const int key0 = warp() * kWarpKeys + lane() / 8;
  const T* row[kLaneKeys];
  SMOE_UNROLL
  for (int i = 0; i < kLaneKeys; ++i) {
    const int key = key0 + 4 * i;
    row[i] = key >= low && key < high ? key_row(args.cache, part, kv_head, key) : nullptr;
  }
  float sum[HG][kLaneKeys] = {};
  for (int at = 4 * (lane() % 8); at < width; at += 32) {
    Four k[kLaneKeys];
    SMOE_UNROLL
    for (int i = 0; i < kLaneKeys; ++i) k[i] = row[i] != nullptr ? get_four(row[i], at, dim, whole) : Four{};
    SMOE_UNROLL
    for (int h = 0; h < HG; ++h) {
      if (h >= heads) break;
      const Four x = bit_cast<Four>(lds(reinterpret_cast<const U32x4*>(q + h * width + at)));
      SMOE_UNROLL
      for (int i = 0; i < kLaneKeys; ++i) {
        SMOE_UNROLL
        for (int j = 0; j < 4; ++j) sum[h][i] = fma(x.x[j], k[i].x[j], sum[h][i]);
      }
    }
  }
  SMOE_UNROLL
  for (int h = 0; h < HG; ++h) {
    if (h >= heads) break;
    SMOE_UNROLL
    for (int i = 0; i < kLaneKeys; ++i) {
      float s = sum[h][i];
      SMOE_UNROLL
      for (int bits = 4; bits > 0; bits /= 2) s += shfl_xor(s, bits);
      if (lane() % 8 == 0) sts(scores + h * kPageTokens + key0 + 4 * i, row[i] != nullptr ? s * args.scale : -INFINITY);
    }
  }
}

// Scores of a page become exponentials; factor[head] takes older sums to the new largest score. A warp per head.
SMOE_DEVICE void soften_page(int heads, float* scores, float* factor, float* largest, float* total) {
  for (int h = warp(); h < heads; h += kAttendWarps) {
    float* const s = scores + h * kPageTokens;
    const float a = lds(s + lane()), b = lds(s + 32 + lane());
    float top = fmaxf(a, b);
    SMOE_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) top = fmaxf(top, shfl_xor(top, bits));
    const float before = shfl(lane() == 0 ? lds(largest + h) : 0.0f, 0);  // lane 0 writes it
    top = fmaxf(top, before);
    const float x = expf(a - top), y = expf(b - top), old = expf(before - top);
    sts(s + lane(), x);
    sts(s + 32 + lane(), y);
    float sum = x + y;
    SMOE_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) sum += shfl_xor(sum, bits);
    if (lane() == 0) {
      sts(factor + h, old);
      sts(largest + h, top);
      sts(total + h, fma(lds(total + h), old, sum));
    }
  }
}

// acc[head] = factor * acc + exponentials * values, for this warp's 16 keys within [low, high); a lane has the columns
// from 4 * lane of every 128.
template <int HG, int VT, class T>
SMOE_DEVICE void mix_page(const AttendArgs& args, T* part, int kv_head, int low, int high, int heads,
                          const float* scores, const float* factor, float (&acc)[HG][VT][4]) {
  const int from = warp() * kWarpKeys, first = from > low ? from : low;
  const int stop = from + kWarpKeys < high ? from + kWarpKeys : high;
  const bool whole = args.value_dim % 4 == 0 && (args.cache.value_dim != 0 || args.cache.key_dim % 4 == 0);
  SMOE_UNROLL
  for (int h = 0; h < HG; ++h) {
    if (h >= heads) break;
    const float old = lds(factor + h);
    SMOE_UNROLL
    for (int v = 0; v < VT; ++v) {
      SMOE_UNROLL
      for (int j = 0; j < 4; ++j) acc[h][v][j] *= old;
    }
  }
  SMOE_UNROLL4
  for (int key = first; key < stop; ++key) {
    const T* const row = value_row(args.cache, part, kv_head, key);
    Four value[VT];
    SMOE_UNROLL
    for (int v = 0; v < VT; ++v) {
      const int at = 128 * v + 4 * lane();
      value[v] = at < args.value_dim ? get_four(row, at, args.value_dim, whole) : Four{};
    }
    SMOE_UNROLL
    for (int h = 0; h < HG; ++h) {
      if (h >= heads) break;
      const float p = lds(scores + h * kPageTokens + key);
      SMOE_UNROLL
      for (int v = 0; v < VT; ++v) {
        SMOE_UNROLL
        for (int j = 0; j < 4; ++j) acc[h][v][j] = fma(p, value[v].x[j], acc[h][v][j]);
      }
    }
  }
}

// Partial sums of one row and head over its splits, in their order, a sink first.
struct Merged {
  float largest, total;
};
SMOE_DEVICE void merge_scores(Merged* merged, float largest, float total) {
  if (!(total != 0)) return;  // a split without pages
  const float top = fmaxf(merged->largest, largest);
  merged->total = fma(total, expf(largest - top), merged->total * expf(merged->largest - top));
  merged->largest = top;
}
SMOE_DEVICE Merged sink_of(const AttendArgs& args, int head) {
  if (args.sinks == nullptr) return {-INFINITY, 0};
  return {ldg(args.sinks + head), 1};
}

// HG: query heads of a block; VT: columns of the result, in 128s.
template <class T, int HG, int VT>
SMOE_KERNEL(kAttendThreads, 2)
attend_split(AttendArgs args) {
  SMOE_SMEM_DYN(float, shared);
  const int tokens = ldg(&args.step->tokens), position = ldg(&args.step->position);
  pdl_wait();
  pdl_trigger();
  const int group = args.heads / args.cache.kv_heads, chunks = (group + HG - 1) / HG;
  const int split = bid() % args.splits, unit = bid() / args.splits % (chunks * args.cache.kv_heads);
  const int64_t row = bid() / args.splits / (chunks * args.cache.kv_heads);
  if (row >= tokens) return;
  const int kv_head = unit / chunks, head0 = kv_head * group + unit % chunks * HG;
  const int left = (kv_head + 1) * group - head0, heads = left < HG ? left : HG;
  const int dim = args.cache.key_dim, width = round_up4(dim);
  float* const q = shared;
  float* const scores = q + HG * width;  // [2][HG][keys]
  float* const factor = scores + 2 * HG * kPageTokens;
  float *const largest = factor + 2 * HG, *const total = largest + HG;
  for (int i = tid(); i < heads * width; i += nthreads()) {
    const int h = i / width, at = i % width;
    sts(q + i, at < dim ? ldg(args.q + off(row, args.q_stride) + off(head0 + h, dim) + at) : 0.0f);
  }
  if (tid() < HG) {
    sts(largest + tid(), -INFINITY);
    sts(total + tid(), 0.0f);
  }
  sync();
  const Span span = visible_span(int64_t{position} + row, args.window);
  const int64_t stop = span.first_page + span.pages * (split + 1) / args.splits;
  float acc[HG][VT][4] = {};
  int buffer = 0;
  for (int64_t page = span.first_page + span.pages * split / args.splits; page < stop; ++page) {
    T* const part = kv_part<T>(args.cache, page);
    const int64_t at = page * kPageTokens;
    const int low = static_cast<int>(span.begin > at ? span.begin - at : 0);
    const int high = static_cast<int>(span.end - at < kPageTokens ? span.end - at : kPageTokens);
    // Two buffers: warps that are done with a page write the next one's scores, but meet before they touch more.
    float* const s = scores + buffer * HG * kPageTokens;
    score_page<HG>(args, part, kv_head, low, high, heads, q, s);
    sync();
    soften_page(heads, s, factor + buffer * HG, largest, total);
    sync();
    mix_page<HG, VT>(args, part, kv_head, low, high, heads, s, factor + buffer * HG, acc);
    buffer ^= 1;
  }
  sync();
  float top = 0, sum = 0;
  if (tid() < HG) {
    top = lds(largest + tid());
    sum = lds(total + tid());
  }
  sync();
  // The warps' sums, over what the loop used.
  float* const ends = shared + kAttendWarps * HG * VT * 128;
  if (tid() < HG) {
    sts(ends + 2 * tid(), top);
    sts(ends + 2 * tid() + 1, sum);
  }
  SMOE_UNROLL
  for (int h = 0; h < HG; ++h) {
    SMOE_UNROLL
    for (int v = 0; v < VT; ++v) {
      Four four;
      SMOE_UNROLL
      for (int j = 0; j < 4; ++j) four.x[j] = acc[h][v][j];
      sts(reinterpret_cast<U32x4*>(shared + ((warp() * HG + h) * VT + v) * 128 + 4 * lane()), bit_cast<U32x4>(four));
    }
  }
  sync();
  for (int i = tid(); i < heads * args.value_dim; i += nthreads()) {
    const int h = i / args.value_dim, column = i % args.value_dim, head = head0 + h;
    float value = 0;
    for (int w = 0; w < kAttendWarps; ++w) value += lds(shared + (w * HG + h) * VT * 128 + column);
    top = lds(ends + 2 * h);
    sum = lds(ends + 2 * h + 1);
    if (args.partial != nullptr) {
      const int64_t to = off(off(row, args.heads) + head, args.splits) + split;
      float* const partial = args.partial + off(to, args.value_dim + 2);
      stg(partial + column, value);
      if (column == 0) {
        stg(partial + args.value_dim, top);
        stg(partial + args.value_dim + 1, sum);
      }
    } else {
      Merged merged = sink_of(args, head);
      merge_scores(&merged, top, sum);
      value = fma(value, expf(top - merged.largest), 0.0f) / merged.total;
      store_parts(args.out, off(off(row, args.heads) + head, args.value_dim) + column, value);
    }
  }
}

// One block per row and head.
SMOE_KERNEL(kAttendThreads, 4)
attend_merge(AttendArgs args) {
  const int head = bid() % args.heads, tokens = ldg(&args.step->tokens);
  const int64_t row = bid() / args.heads;
  pdl_wait();
  pdl_trigger();
  if (row >= tokens) return;
  const int64_t at = off(row, args.heads) + head, step = args.value_dim + 2;
  const float* const partial = args.partial + off(at, off(args.splits, step));
  Merged merged = sink_of(args, head);
  for (int split = 0; split < args.splits; ++split) {
    const float* const scores = partial + split * step + args.value_dim;
    merge_scores(&merged, ldg(scores), ldg(scores + 1));
  }
  for (int column = tid(); column < args.value_dim; column += nthreads()) {
    float value = 0;
    for (int split = 0; split < args.splits; ++split) {
      const float* const from = partial + split * step;
      if (!(ldg(from + args.value_dim + 1) != 0)) continue;
      value = fma(ldg(from + column), expf(ldg(from + args.value_dim) - merged.largest), value);
    }
    store_parts(args.out, off(at, args.value_dim) + column, value / merged.total);
  }
}

}  // namespace smoe::cu
