// 16 f32 lanes in two ymm (AVX2, FMA, F16C). See vec_avx512.h for what each function means.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

struct V {
  __m256 lo, hi;
};

inline V v_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V v_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V v_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void v_store(float* p, V a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline __m256i v_half_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V v_load_n(const float* p, int n) {
  return {_mm256_maskload_ps(p, v_half_mask(n)),
          n > 8 ? _mm256_maskload_ps(p + 8, v_half_mask(n - 8)) : _mm256_setzero_ps()};
}
inline void v_store_n(float* p, V a, int n) {
  _mm256_maskstore_ps(p, v_half_mask(n), a.lo);
  if (n > 8) _mm256_maskstore_ps(p + 8, v_half_mask(n - 8), a.hi);
}

inline V v_add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline V v_sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline V v_mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline V v_div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline V v_max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline V v_min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline V v_sqrt(V a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline V v_fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }

inline __m256 v_widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline V v_load_bf16(const uint16_t* p) {
  return {v_widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          v_widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline __m256i v_half_bf16_bits(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
struct VI {
  __m256i lo, hi;
};
inline VI v_bf16_bits(V a) { return {v_half_bf16_bits(a.lo), v_half_bf16_bits(a.hi)}; }
inline void v_store_bf16(uint16_t* p, V a) {
  const VI b = v_bf16_bits(a);
  // packus works within 128-bit lanes; the permutation puts the four quarters back in order
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(b.lo, b.hi), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
inline V v_round_bf16(V a) {
  const VI b = v_bf16_bits(a);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(b.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b.hi, 16))};
}

struct VPair {
  V even, odd;
};
inline VPair v_load_pairs(const void* p) {
  const __m256i a = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  const __m256i b = _mm256_loadu_si256(static_cast<const __m256i*>(p) + 1);
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))}};
}

inline VPair v_set_pair(uint32_t pair) {
  const __m256i bits = _mm256_set1_epi32(static_cast<int>(pair));
  const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  return {{even, even}, {odd, odd}};
}
inline __m256 v_half_pack_pairs(V a) {
  const VI b = v_bf16_bits(a);
  return _mm256_castsi256_ps(_mm256_permute4x64_epi64(_mm256_packus_epi32(b.lo, b.hi), 0xd8));
}
inline V v_pack_pairs(V low, V high) { return {v_half_pack_pairs(low), v_half_pack_pairs(high)}; }
inline void v_half_store_transposed4(float* out, __m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
  const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
  const __m256 columns[4] = {_mm256_shuffle_ps(ab_low, cd_low, 0x44), _mm256_shuffle_ps(ab_low, cd_low, 0xee),
                             _mm256_shuffle_ps(ab_high, cd_high, 0x44), _mm256_shuffle_ps(ab_high, cd_high, 0xee)};
  for (int j = 0; j < 4; ++j) {
    _mm_storeu_ps(out + 4 * j, _mm256_castps256_ps128(columns[j]));
    _mm_storeu_ps(out + 16 + 4 * j, _mm256_extractf128_ps(columns[j], 1));
  }
}
inline void v_store_transposed4(float* out, V a, V b, V c, V d) {
  v_half_store_transposed4(out, a.lo, b.lo, c.lo, d.lo);
  v_half_store_transposed4(out + 32, a.hi, b.hi, c.hi, d.hi);
}
inline void v_prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline __m256 v_half_exp2_int(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline V v_exp2_int(V n) { return {v_half_exp2_int(n.lo), v_half_exp2_int(n.hi)}; }
inline V v_round(V a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline V v_select_lt(V a, V b, V x, V y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}

inline __m128 v_quarter_sum(V a) {
  const __m256 half = _mm256_add_ps(a.lo, a.hi);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
inline float v_sum(V a) {
  __m128 quarter = v_quarter_sum(a);
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
inline float v_max_lane(V a) {
  const __m256 half = _mm256_max_ps(a.lo, a.hi);
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

}  // namespace
