// 16 f32 lanes in two ymm (AVX2, FMA, F16C). See vec_avx512.h for what each function means.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

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

inline VI v_set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline VI v_load_codes(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void v_store_codes(void* p, VI a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, a.hi);
}
inline VI v_bytes(int x) {
  const __m256i all = _mm256_set1_epi8(static_cast<char>(x));
  return {all, all};
}
template <int S, int Mask>
inline VI v_field(VI a) {
  const __m256i mask = v_bytes(Mask).lo;
  return {_mm256_and_si256(S == 0 ? a.lo : _mm256_srli_epi32(a.lo, S), mask),
          _mm256_and_si256(S == 0 ? a.hi : _mm256_srli_epi32(a.hi, S), mask)};
}
inline __m256i v_half_bits(uint32_t mask, int x) {
  // each byte gets the mask byte that holds its bit, then tests the bit
  const __m256i spread = _mm256_shuffle_epi8(
      _mm256_set1_epi32(static_cast<int>(mask)),
      _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit),
                          _mm256_set1_epi8(static_cast<char>(x)));
}
inline VI v_bits(const void* p, int x) {
  uint32_t masks[2];
  memcpy(masks, p, 8);
  return {v_half_bits(masks[0], x), v_half_bits(masks[1], x)};
}
inline VI v_or(VI a, VI b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline VI v_add8(VI a, VI b) { return {_mm256_add_epi8(a.lo, b.lo), _mm256_add_epi8(a.hi, b.hi)}; }
inline VI v_sub8(VI a, VI b) { return {_mm256_sub_epi8(a.lo, b.lo), _mm256_sub_epi8(a.hi, b.hi)}; }
inline VI v_min8(VI a, VI b) { return {_mm256_min_epu8(a.lo, b.lo), _mm256_min_epu8(a.hi, b.hi)}; }
inline VI v_lookup8(const uint8_t* table, VI a) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(t, a.lo), _mm256_shuffle_epi8(t, a.hi)};
}
inline VI v_select_lt8(VI a, int limit, VI x, VI y) {
  const __m256i bound = v_bytes(limit).lo;
  return {_mm256_blendv_epi8(y.lo, x.lo, _mm256_cmpgt_epi8(bound, a.lo)),
          _mm256_blendv_epi8(y.hi, x.hi, _mm256_cmpgt_epi8(bound, a.hi))};
}
struct VIPair {
  VI first, second;
};
inline VIPair v_merge_bytes(VI low, VI high) {
  const __m256 a0 = _mm256_castsi256_ps(_mm256_unpacklo_epi8(low.lo, high.lo));
  const __m256 b0 = _mm256_castsi256_ps(_mm256_unpackhi_epi8(low.lo, high.lo));
  const __m256 a1 = _mm256_castsi256_ps(_mm256_unpacklo_epi8(low.hi, high.hi));
  const __m256 b1 = _mm256_castsi256_ps(_mm256_unpackhi_epi8(low.hi, high.hi));
  return {{_mm256_castps_si256(_mm256_shuffle_ps(a0, b0, 0x88)), _mm256_castps_si256(_mm256_shuffle_ps(a1, b1, 0x88))},
          {_mm256_castps_si256(_mm256_shuffle_ps(a0, b0, 0xdd)), _mm256_castps_si256(_mm256_shuffle_ps(a1, b1, 0xdd))}};
}
// vpmaddubsw adds two products in 16 bits with saturation: exact for codes up to 127, 2 * 127 * 127 = 32258.
inline __m256i v_half_dot8(__m256i acc, __m256i codes, __m256i x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}
// The same pairs of products as 16-bit lanes, their sums, and two neighbouring lanes as one of 32 bits.
#define SMOE_SUM16 1
inline VI v_pairs8(VI codes, int32_t x) {
  const __m256i b = _mm256_set1_epi32(x);
  return {_mm256_maddubs_epi16(codes.lo, b), _mm256_maddubs_epi16(codes.hi, b)};
}
inline VI v_add16(VI a, VI b) {
  VI sum = {_mm256_add_epi16(a.lo, b.lo), _mm256_add_epi16(a.hi, b.hi)};
#if defined(__GNUC__)
  // g++ 12 would add the products to each other first, and spill them all.
  __asm__("" : "+x"(sum.lo), "+x"(sum.hi));
#endif
  return sum;
}
inline VI v_widen16(VI a) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(a.lo, one), _mm256_madd_epi16(a.hi, one)};
}
inline VI v_dot8(VI acc, VI codes, int32_t x) {
  const __m256i b = _mm256_set1_epi32(x);
  return {v_half_dot8(acc.lo, codes.lo, b), v_half_dot8(acc.hi, codes.hi, b)};
}
// Codes up to 255 would saturate. code - 128 is taken instead, as magnitude (at most 128) times x with its sign,
// 2 * 128 * 127 = 32512; whoever uses it accounts for the missing 128 * sum(x).
constexpr bool kShiftedFull = true;
inline VI v_dot8_full(VI acc, VI codes, int32_t x) {
  const __m256i b = _mm256_set1_epi32(x), top = v_bytes(0x80).lo;
  const __m256i lo = _mm256_xor_si256(codes.lo, top), hi = _mm256_xor_si256(codes.hi, top);
  return {v_half_dot8(acc.lo, _mm256_abs_epi8(lo), _mm256_sign_epi8(b, lo)),
          v_half_dot8(acc.hi, _mm256_abs_epi8(hi), _mm256_sign_epi8(b, hi))};
}
inline VI v_add_int(VI a, VI b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline V v_from_int(VI a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
template <int J>
inline VI v_lane_byte(VI a) {
  const __m256i mask = _mm256_set1_epi32(0xff);
  return {_mm256_and_si256(_mm256_srli_epi32(a.lo, 8 * J), mask),
          _mm256_and_si256(_mm256_srli_epi32(a.hi, 8 * J), mask)};
}
inline V v_lookup_f32(const float* table, VI lanes) {
  return {_mm256_i32gather_ps(table, lanes.lo, 4), _mm256_i32gather_ps(table, lanes.hi, 4)};
}
inline V v_load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void v_store_int8(void* p, V a) {
  // packs works within 128-bit lanes: 32-bit group g of the result is lanes 0-3, 8-11, 4-7, 12-15 of a, twice
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i bytes = _mm256_packs_epi16(words, words);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}

}  // namespace
