// exp and the activations on 16 lanes; NaN passes through all of them. Included after one of the vec_*.h headers.
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

// erfc(a) for a >= 0, relative error about 5e-7 while e^(-a*a) is a normal number. Below 1: 1 - a P(a^2), P the least
// squares (reweighted towards minimax) fit of erf(sqrt z)/sqrt z on [0, 1], 1.2e-9. From 1 on: e^(-a*a) R(t) with
// t = 1/(1 + a/2), R the fit of erfc(a) e^(a*a) on a in [1, 10], 5.7e-8.
inline V v_erfc_positive(V a) {
  const V z = v_mul(a, a), one = v_set(1.0f);
  V p = v_set(7.853847637e-5f);
  p = v_fma(p, z, v_set(-8.010189631e-4f));
  p = v_fma(p, z, v_set(5.188327283e-3f));
  p = v_fma(p, z, v_set(-2.685381100e-2f));
  p = v_fma(p, z, v_set(1.128358543e-1f));
  p = v_fma(p, z, v_set(-3.761262596e-1f));
  p = v_fma(p, z, v_set(1.128379107f));
  const V t = v_div(one, v_fma(a, v_set(0.5f), one));
  V r = v_set(7.358408719e-2f);
  r = v_fma(r, t, v_set(-3.265671134e-1f));
  r = v_fma(r, t, v_set(3.703747094e-1f));
  r = v_fma(r, t, v_set(3.712715581e-2f));
  r = v_fma(r, t, v_set(2.871092260e-1f));
  r = v_fma(r, t, v_set(2.751699388e-1f));
  r = v_fma(r, t, v_set(2.827470005e-1f));
  r = v_fma(r, t, v_set(-2.587047804e-5f));
  const V tail = v_mul(v_exp(v_sub(v_zero(), z)), r);
  return v_select_lt(a, one, v_sub(one, v_mul(a, p)), tail);
}

inline V v_abs(V x) { return v_max(x, v_sub(v_zero(), x)); }

inline V v_erf(V x) {  // absolute error below 2e-7
  const V y = v_sub(v_set(1.0f), v_erfc_positive(v_abs(x)));
  return v_select_lt(x, v_zero(), v_sub(v_zero(), y), y);
}

// x Phi(x). Through erfc, because 1 + erf would cancel in the negative tail.
inline V v_gelu_erf(V x) {
  const V tail = v_erfc_positive(v_mul(v_abs(x), v_set(0.70710678f)));
  return v_mul(v_mul(v_set(0.5f), x), v_select_lt(x, v_zero(), tail, v_sub(v_set(2.0f), tail)));
}

inline V v_activate(smoe::Activation act, V x) {
  switch (act) {
    case smoe::Activation::Silu:
      return v_mul(x, v_sigmoid(x));
    case smoe::Activation::GeluTanh: {  // (1 + tanh u)/2 = sigmoid(2u), which does not cancel; 2 sqrt(2/pi)
                                        // = 1.59576912
      const V cubic = v_fma(v_mul(v_set(0.044715f), v_mul(x, x)), x, x);
      return v_mul(x, v_sigmoid(v_mul(v_set(1.59576912f), cubic)));
    }
    case smoe::Activation::GeluErf:
      return v_gelu_erf(x);
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
