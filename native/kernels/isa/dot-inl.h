// Dot of bf16 pairs: acc + w.even*x.even, then + w.odd*x.odd, on 16 lanes. One instruction where there is one, else
// two f32 multiply-adds; a product of two bf16 values is exact in f32, so both round the same way.
#pragma once

namespace {

#if defined(SMOE_NATIVE_DOT)

struct VDot {
  __m512i r;
};
inline VDot v_load_dot(const void* p) { return {_mm512_loadu_si512(p)}; }
inline VDot v_set_dot(uint32_t pair) { return {_mm512_set1_epi32(static_cast<int>(pair))}; }
// vdpbf16ps rounds to nearest whatever MXCSR says and takes subnormals as zero, which here is below every tolerance.
inline V v_dot(V acc, VDot w, VDot x) {
  __m512bh a, b;
  __builtin_memcpy(&a, &w.r, sizeof a);
  __builtin_memcpy(&b, &x.r, sizeof b);
  return {_mm512_dpbf16_ps(acc.r, a, b)};
}

#else

using VDot = VPair;
inline VDot v_load_dot(const void* p) { return v_load_pairs(p); }
inline VDot v_set_dot(uint32_t pair) { return v_set_pair(pair); }
inline V v_dot(V acc, VDot w, VDot x) { return v_fma(w.odd, x.odd, v_fma(w.even, x.even, acc)); }

#endif

}  // namespace
