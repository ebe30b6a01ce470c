// Attention of one (token, head) over the KV cache; included after one of the vec_*.h headers.
//
// Every score and every output element is one chain of multiply-adds in ascending order, whatever the blocking, and
// lanes outside [begin, end) are replaced before they are used: the result depends on q and on the keys and values in
// [begin, end) alone, not on what lies in the rest of the last panel.
#pragma once

#include <float.h>
#include <math.h>

#include "kernels/isa/lanes-inl.h"

namespace {

inline V k_load16(const float* p) { return v_load(p); }
inline V k_load16(const uint16_t* p) { return v_load_bf16(p); }
inline V k_load16_n(const float* p, int n) { return v_load_n(p, n); }
inline V k_load16_n(const uint16_t* p, int n) {
  uint16_t row[16] = {};
  for (int i = 0; i < n; ++i) row[i] = p[i];
  return v_load_bf16(row);
}

// Scores of kPanels * 16 keys: several panels at once, because one chain of multiply-adds waits for its own latency.
// Clamped to the finite range: an overflowing product must lose or win the softmax, not turn it into NaN.
template <int kPanels, class T>
inline void k_score_panels(const float* q, const T* panels, int64_t head_dim, V scale, float* scores) {
  const int64_t panel = head_dim * 16;
  V acc[kPanels];
  for (int p = 0; p < kPanels; ++p) acc[p] = v_zero();
  for (int64_t d = 0; d < head_dim; ++d) {
    const V x = v_set(q[d]);
    for (int p = 0; p < kPanels; ++p) acc[p] = v_fma(x, k_load16(panels + p * panel + d * 16), acc[p]);
  }
  for (int p = 0; p < kPanels; ++p) {
    v_store(scores + 16 * p, v_min(v_max(v_mul(acc[p], scale), v_set(-FLT_MAX)), v_set(FLT_MAX)));
  }
}

// out[0 .. 16*kVectors) = sum over keys of weight * value, accumulators in registers.
template <int kVectors, class T>
inline void k_mix_values(const float* weights, const T* v, int64_t begin, int64_t end, int64_t head_dim, float* out) {
  V acc[kVectors];
  for (int i = 0; i < kVectors; ++i) acc[i] = v_zero();
  for (int64_t key = begin; key < end; ++key) {
    const V w = v_set(weights[key]);
    const T* row = v + key * head_dim;
    for (int i = 0; i < kVectors; ++i) acc[i] = v_fma(w, k_load16(row + 16 * i), acc[i]);
  }
  for (int i = 0; i < kVectors; ++i) v_store(out + 16 * i, acc[i]);
}

template <class T>
inline void k_mix_tail(const float* weights, const T* v, int64_t begin, int64_t end, int64_t head_dim, int n,
                       float* out) {
  V acc = v_zero();
  for (int64_t key = begin; key < end; ++key) {
    acc = v_fma(v_set(weights[key]), k_load16_n(v + key * head_dim, n), acc);
  }
  v_store_n(out, acc, n);
}

// scores -> softmax weights, in place, over whole panels [first, last): lanes outside [begin, end) become 0. A sink of
// -infinity weighs exactly 0, so that without one the bits are those of a softmax that knows of none.
inline void k_softmax_panels(int64_t begin, int64_t end, float sink, float* scores) {
  const int64_t first = begin / 16 * 16, last = (end + 15) / 16 * 16;
  const V none = v_set(-INFINITY);
  float* const head = scores + first;
  v_store(head, v_first_lanes(static_cast<int>(begin - first), none, v_load(head)));
  float* const tail = scores + last - 16;
  v_store(tail, v_first_lanes(static_cast<int>(end - (last - 16)), v_load(tail), none));

  V top = v_set(sink);
  for (int64_t i = first; i < last; i += 16) top = v_max(top, v_load(scores + i));
  const V maximum = v_set(v_max_lane(top));
  V sum = v_first_lanes(1, v_exp_or_zero(v_sub(v_set(sink), maximum)), v_zero());
  for (int64_t i = first; i < last; i += 16) {
    const V e = v_exp_or_zero(v_sub(v_load(scores + i), maximum));
    v_store(scores + i, e);
    sum = v_add(sum, e);
  }
  const V total = v_set(v_sum(sum));  // >= 1: the largest score's own term
  for (int64_t i = first; i < last; i += 16) v_store(scores + i, v_div(v_load(scores + i), total));
}

// Softmax weights of keys [begin, end), which are not none, into `scores`.
template <class T>
inline void k_weigh_keys(const float* q, const T* panels, int64_t begin, int64_t end, int64_t key_dim, float scale,
                         float sink, float* scores) {
  const V factor = v_set(scale);
  const int64_t last = (end + 15) / 16, panel = key_dim * 16;
  int64_t p = begin / 16;
  for (; p + 4 <= last; p += 4) k_score_panels<4>(q, panels + p * panel, key_dim, factor, scores + 16 * p);
  for (; p < last; ++p) k_score_panels<1>(q, panels + p * panel, key_dim, factor, scores + 16 * p);
  k_softmax_panels(begin, end, sink, scores);
}

template <class T>
inline void k_attend(const float* q, const T* k_panels, const T* v, int64_t begin, int64_t end, int64_t head_dim,
                     float scale, float sink, float* scores, float* out) {
  if (begin >= end) {
    for (int64_t d = 0; d < head_dim; ++d) out[d] = 0.0f;
    return;
  }
  k_weigh_keys(q, k_panels, begin, end, head_dim, scale, sink, scores);

#if defined(__AVX512F__)
  constexpr int kBlock = 8;  // of 32 registers
#else
  constexpr int kBlock = 4;  // two registers each, of 16
#endif
  int64_t d = 0;
  for (; d + 16 * kBlock <= head_dim; d += 16 * kBlock) {
    k_mix_values<kBlock>(scores, v + d, begin, end, head_dim, out + d);
  }
  for (; d + 32 <= head_dim; d += 32) k_mix_values<2>(scores, v + d, begin, end, head_dim, out + d);
  for (; d + 16 <= head_dim; d += 16) k_mix_values<1>(scores, v + d, begin, end, head_dim, out + d);
  if (d < head_dim) k_mix_tail(scores, v + d, begin, end, head_dim, static_cast<int>(head_dim - d), out + d);
}

void k_attend_f32(const float* q, const float* k_panels, const float* v, int64_t begin, int64_t end, int64_t head_dim,
                  float scale, float sink, float* scores, float* out) {
  k_attend(q, k_panels, v, begin, end, head_dim, scale, sink, scores, out);
}

void k_attend_bf16(const float* q, const uint16_t* k_panels, const uint16_t* v, int64_t begin, int64_t end,
                   int64_t head_dim, float scale, float sink, float* scores, float* out) {
  k_attend(q, k_panels, v, begin, end, head_dim, scale, sink, scores, out);
}

}  // namespace
