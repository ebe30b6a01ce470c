// The AVX-512 BF16 dot product of pairs: acc + w.odd*x.odd rounded, then + w.even*x.even rounded,
// on 16 lanes. Included
// after vec_avx512.h by the instruction sets that define SMOE_NATIVE_DOT.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

struct VDot {
  __m512bh r;
};
// memcpy because the compilers differ in which casts to __m512bh they know. Filled here and not in v_dot: converted at
// the use, the weights were loaded again for every row.
inline VDot v_load_dot(const void* p) {
  VDot out;
  memcpy(&out.r, p, sizeof out.r);
  return out;
}
inline VDot v_set_dot(uint32_t pair) {
  const __m512i bits = _mm512_set1_epi32(static_cast<int>(pair));
  VDot out;
  memcpy(&out.r, &bits, sizeof bits);
  return out;
}
// vdpbf16ps rounds to nearest whatever MXCSR says and takes subnormals as zero, which here is below every tolerance.
inline V v_dot(V acc, VDot w, VDot x) { return {_mm512_dpbf16_ps(acc.r, w.r, x.r)}; }

}  // namespace
