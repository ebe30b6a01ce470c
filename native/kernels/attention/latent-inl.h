// Attention of one (token, head) over latent vectors, which are keys and values at once: there is nothing but the
// 16-key panels, so values are summed along the lanes. Included after attention-inl.h.
//
// An output element is 16 chains of multiply-adds over the panels in ascending order and one sum over their lanes: as
// in attention-inl.h nothing depends on what lies outside [begin, end).
#pragma once

#include "kernels/attention/attention-inl.h"

namespace {

// out[0 .. kRows) = sum over keys of weight * element, `panels` pointing at the first of kRows elements of panel 0.
template <int kRows, class T>
inline void k_mix_latents(const float* weights, const T* panels, int64_t begin, int64_t end, int64_t key_dim,
                          float* out) {
  V acc[kRows];
  for (int i = 0; i < kRows; ++i) acc[i] = v_zero();
  for (int64_t p = begin / 16; p < (end + 15) / 16; ++p) {
    const V w = v_load(weights + 16 * p);
    const T* rows = panels + p * key_dim * 16;
    if (16 * p >= begin && 16 * (p + 1) <= end) {
      for (int i = 0; i < kRows; ++i) acc[i] = v_fma(w, k_load16(rows + 16 * i), acc[i]);
    } else {  // lanes outside have no weight, but what they hold may be NaN
      for (int i = 0; i < kRows; ++i) {
        acc[i] = v_fma(w, v_select_lt(v_zero(), w, k_load16(rows + 16 * i), v_zero()), acc[i]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) out[i] = v_sum(acc[i]);
}

template <class T>
inline void k_attend_latent(const float* q, const T* panels, int64_t begin, int64_t end, int64_t key_dim,
                            int64_t value_dim, float scale, float* scores, float* out) {
  if (begin >= end) {
    for (int64_t d = 0; d < value_dim; ++d) out[d] = 0.0f;
    return;
  }
  k_weigh_keys(q, panels, begin, end, key_dim, scale, -INFINITY, scores);
#if defined(__AVX512F__)
  constexpr int kBlock = 16;
#else
  constexpr int kBlock = 4;  // two registers each, of 16
#endif
  int64_t d = 0;
  for (; d + kBlock <= value_dim; d += kBlock) {
    k_mix_latents<kBlock>(scores, panels + d * 16, begin, end, key_dim, out + d);
  }
  for (; d < value_dim; ++d) k_mix_latents<1>(scores, panels + d * 16, begin, end, key_dim, out + d);
}

void k_attend_latent_f32(const float* q, const float* panels, int64_t begin, int64_t end, int64_t key_dim,
                         int64_t value_dim, float scale, float* scores, float* out) {
  k_attend_latent(q, panels, begin, end, key_dim, value_dim, scale, scores, out);
}

void k_attend_latent_bf16(const float* q, const uint16_t* panels, int64_t begin, int64_t end, int64_t key_dim,
                          int64_t value_dim, float scale, float* scores, float* out) {
  k_attend_latent(q, panels, begin, end, key_dim, value_dim, scale, scores, out);
}

}  // namespace
