// Norms and the elementwise steps of a decoder layer, one row; included after one of the vec_*.h headers.
#pragma once

#include <float.h>

#include "kernels/isa/lanes-inl.h"

namespace {

// Squares of f32 above 1.8e19 overflow. A row whose sum does is taken again times this power of two, which is exact
// for the elements that matter: FLT_MAX becomes 2.8e14, so even 2^20 squares stay finite.
constexpr float kNormRescue = 0x1p-80f;

struct RowMoments {
  float sum, squares;  // of x*scale - shift
};

// Four accumulators of 16 lanes: each takes h/64 additions, which bounds the relative error of the squares by
// (h/64 + 8) * 2^-24: 8e-6 at h = 8192, and half of that after the root.
inline RowMoments k_row_moments(const float* x, int64_t h, float scale, float shift) {
  const V c = v_set(scale), minus = v_set(-shift);
  V sum[4], squares[4];
  for (int j = 0; j < 4; ++j) sum[j] = squares[j] = v_zero();
  int64_t i = 0;
  for (; i + 64 <= h; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const V d = v_fma(v_load(x + i + 16 * j), c, minus);
      sum[j] = v_add(sum[j], d);
      squares[j] = v_fma(d, d, squares[j]);
    }
  }
  for (; i + 16 <= h; i += 16) {
    const V d = v_fma(v_load(x + i), c, minus);
    sum[0] = v_add(sum[0], d);
    squares[0] = v_fma(d, d, squares[0]);
  }
  if (i < h) {
    const int n = static_cast<int>(h - i);
    const V d = v_first_lanes(n, v_fma(v_load_n(x + i, n), c, minus), v_zero());
    sum[1] = v_add(sum[1], d);
    squares[1] = v_fma(d, d, squares[1]);
  }
  return {v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3]))),
          v_sum(v_add(v_add(squares[0], squares[1]), v_add(squares[2], squares[3])))};
}

// 1/sqrt(x); 0 for 0, so that a row of zeros with eps = 0 gives zeros and not NaN.
inline V k_inverse_root(float x) { return x == 0.0f ? v_zero() : v_div(v_set(1.0f), v_sqrt(v_set(x))); }

// What k_apply_norm does to each element: ((x*scale - shift) - delta) * factor * weight + bias.
struct NormStep {
  V scale, minus_shift, delta, factor;
  const float *weight, *bias;  // or null
};

template <bool kTail>
inline void k_apply_norm_part(const NormStep& step, const float* x, int64_t i, int n, float* out) {
  const V d = v_sub(v_fma(v_load_part<kTail>(x + i, n), step.scale, step.minus_shift), step.delta);
  V y = v_mul(d, step.factor);
  if (step.weight != nullptr) y = v_mul(y, v_load_part<kTail>(step.weight + i, n));
  if (step.bias != nullptr) y = v_add(y, v_load_part<kTail>(step.bias + i, n));
  v_store_part<kTail>(out + i, y, n);
}

inline void k_apply_norm(const NormStep& step, const float* x, int64_t h, float* out) {
  int64_t i = 0;
  for (; i + 16 <= h; i += 16) k_apply_norm_part<false>(step, x, i, 16, out);
  if (i < h) k_apply_norm_part<true>(step, x, i, static_cast<int>(h - i), out);
}

void k_rms_norm(const float* x, const float* weight, float eps, int64_t h, float* out) {
  float scale = 1.0f;
  float squares = k_row_moments(x, h, scale, 0.0f).squares;
  if (!(squares <= FLT_MAX)) {
    scale = kNormRescue;
    squares = k_row_moments(x, h, scale, 0.0f).squares;
  }
  const float mean = squares / static_cast<float>(h) + eps * scale * scale;
  const NormStep step = {v_set(scale), v_set(-0.0f), v_zero(), k_inverse_root(mean), weight, nullptr};
  k_apply_norm(step, x, h, out);
}

// Two passes, the second corrected: the deviations' own mean, which is the rounding error of the first pass's mean, is
// taken out of the variance and of the output. What stays is the rounding of x - mean itself.
void k_layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t h, float* out) {
  const float count = static_cast<float>(h);
  float scale = 1.0f;
  float mean = k_row_moments(x, h, scale, 0.0f).sum / count;
  RowMoments deviation = k_row_moments(x, h, scale, mean);
  if (!(deviation.squares <= FLT_MAX)) {
    scale = kNormRescue;
    mean = k_row_moments(x, h, scale, 0.0f).sum / count;
    deviation = k_row_moments(x, h, scale, mean);
  }
  const float delta = deviation.sum / count;
  float variance = deviation.squares / count - delta * delta;
  if (variance < 0.0f) variance = 0.0f;  // rounding, in a row of equal elements
  const V factor = k_inverse_root(variance + eps * scale * scale);
  const NormStep step = {v_set(scale), v_set(-mean), v_set(delta), factor, weight, bias};
  k_apply_norm(step, x, h, out);
}

void k_add(const float* x, const float* y, int64_t h, float* out) {
  int64_t i = 0;
  for (; i + 16 <= h; i += 16) v_store(out + i, v_add(v_load(x + i), v_load(y + i)));
  const int n = static_cast<int>(h - i);
  if (n > 0) v_store_n(out + i, v_add(v_load_n(x + i, n), v_load_n(y + i, n)), n);
}

// Products rounded before the sum, as Hugging Face computes q*cos + rotate_half(q)*sin.
template <bool kTail>
inline void k_rotate_part(float* first, float* second, const float* cos, const float* sin, int n) {
  const V a = v_load_part<kTail>(first, n), b = v_load_part<kTail>(second, n);
  const V c = v_load_part<kTail>(cos, n), s = v_load_part<kTail>(sin, n);
  v_store_part<kTail>(first, v_sub(v_mul(a, c), v_mul(b, s)), n);
  v_store_part<kTail>(second, v_add(v_mul(b, c), v_mul(a, s)), n);
}

void k_rotate(float* head, const float* cos, const float* sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  int64_t i = 0;
  for (; i + 16 <= half; i += 16) k_rotate_part<false>(head + i, head + half + i, cos + i, sin + i, 16);
  if (i < half) k_rotate_part<true>(head + i, head + half + i, cos + i, sin + i, static_cast<int>(half - i));
}

void k_round_bf16(float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store(x + i, v_round_bf16(v_load(x + i)));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) v_store_n(x + i, v_round_bf16(v_load_n(x + i, rest)), rest);
}

}  // namespace
