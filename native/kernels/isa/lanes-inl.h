// Helpers on 16 lanes shared by the kernel bodies; included after one of the vec_*.h headers.
#pragma once

#include "kernels/isa/math-inl.h"

namespace {

// The first n lanes of a, the others from rest. Compared as floats because the vector interface has no masks.
inline V v_first_lanes(int n, V a, V rest) {
  static const float index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return v_select_lt(v_load(index), v_set(static_cast<float>(n)), a, rest);
}

// Loops over a row handle full vectors and the last n lanes by the same code, instantiated twice: masked memory access
// is slow where the instruction set lacks it.
template <bool kTail>
inline V v_load_part(const float* p, int n) {
  return kTail ? v_load_n(p, n) : v_load(p);
}
template <bool kTail>
inline void v_store_part(float* p, V a, int n) {
  if (kTail) {
    v_store_n(p, a, n);
  } else {
    v_store(p, a);
  }
}

// e^x for x <= 0, exactly 0 below -87.3 (e^-87.3 is the smallest result v_exp has), so that -inf has no weight at all.
inline V v_exp_or_zero(V x) { return v_select_lt(x, v_set(-87.3f), v_zero(), v_exp(x)); }

}  // namespace
