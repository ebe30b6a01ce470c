// exp and the activations on 16 lanes; included after one of the vec_*.h headers.
#pragma once

#include "kernels/kernel_table.h"

namespace {

// e^x by x = n ln2 + r, |r| <= ln2/2: the Taylor polynomial of degree 7 in r (the first term left out, r^8/8!, is
// below 2^-27.5 and so a twentieth of an ulp of the smallest result, e^r = 0.707) times 2^n. ln2 is split in two so
// that n*ln2 is exact in f32 to about 40 bits (0.693359375 = 355/512 has 9 bits and n 8). Clamped to [-87.3, 88.3],
// where 2^n stays normal: below, results are about 1e-38 instead of 0, above they stop at 2.2e38 instead of infinity.
// Constants come first in min and max so that NaN passes through.
inline V v_exp(V x) {
  x = v_min(v_set(88.3f), v_max(v_set(-87.3f), x));
  const V n = v_round(v_mul(x, v_set(1.44269504088896341f)));
  V r = v_fma(n, v_set(-0.693359375f), x);
  r = v_fma(n, v_set(2.12194440e-4f), r);
  V p = v_set(1.0f / 5040.0f);
  p = v_fma(p, r, v_set(1.0f / 720.0f));
  p = v_fma(p, r, v_set(1.0f / 120.0f));
  p = v_fma(p, r, v_set(1.0f / 24.0f));
  p = v_fma(p, r, v_set(1.0f / 6.0f));
  p = v_fma(p, r, v_set(0.5f));
  p = v_fma(p, r, v_set(1.0f));
  p = v_fma(p, r, v_set(1.0f));
  return v_mul(p, v_exp2_int(n));
}

inline V v_sigmoid(V x) { return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x)))); }

inline V v_tanh(V x) {  // 2 sigmoid(2x) - 1; absolute error below 2e-7
  return v_fma(v_set(2.0f), v_sigmoid(v_mul(v_set(2.0f), x)), v_set(-1.0f));
}

// erf by Abramowitz and Stegun 7.1.26: absolute error at most 1.5e-7.
inline V v_erf(V x) {
  const V zero = v_zero();
  const V a = v_max(x, v_sub(zero, x));
  const V t = v_div(v_set(1.0f), v_fma(v_set(0.3275911f), a, v_set(1.0f)));
  V p = v_set(1.061405429f);
  p = v_fma(p, t, v_set(-1.453152027f));
  p = v_fma(p, t, v_set(1.421413741f));
  p = v_fma(p, t, v_set(-0.284496736f));
  p = v_fma(p, t, v_set(0.254829592f));
  const V y = v_sub(v_set(1.0f), v_mul(v_mul(p, t), v_exp(v_sub(zero, v_mul(a, a)))));
  return v_select_lt(x, zero, v_sub(zero, y), y);
}

inline V v_activate(smoe::Activation act, V x) {
  switch (act) {
    case smoe::Activation::Silu:
      return v_mul(x, v_sigmoid(x));
    case smoe::Activation::GeluTanh: {  // sqrt(2/pi) = 0.79788456
      const V inner = v_mul(v_set(0.79788456f), v_fma(v_mul(v_set(0.044715f), v_mul(x, x)), x, x));
      return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1.0f), v_tanh(inner)));
    }
    case smoe::Activation::GeluErf:
      return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1.0f), v_erf(v_mul(x, v_set(0.70710678f)))));
    case smoe::Activation::Relu:
      return v_max(v_zero(), x);  // in this order NaN passes
    case smoe::Activation::Relu2: {
      const V y = v_max(v_zero(), x);
      return v_mul(y, y);
    }
    case smoe::Activation::Identity:
      break;
  }
  return x;
}

}  // namespace
