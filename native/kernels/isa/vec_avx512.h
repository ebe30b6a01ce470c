// 16 f32 lanes in one zmm. The vector interface that all kernel bodies (*-inl.h) are written against; the
// other two headers give the same functions. Everything lives in an anonymous namespace: an inline function with
// external linkage compiled with AVX flags could be the copy the linker keeps for baseline code.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace {

struct V {
  __m512 r;
};
struct VI {
  __m512i r;
};

inline V v_zero() { return {_mm512_setzero_ps()}; }
inline V v_set(float x) { return {_mm512_set1_ps(x)}; }
inline V v_load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void v_store(float* p, V a) { _mm512_storeu_ps(p, a.r); }
inline __mmask16 v_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
// First n lanes (0..16); the others read as zero and are not touched in memory.
inline V v_load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(v_mask(n), p)}; }
inline void v_store_n(float* p, V a, int n) { _mm512_mask_storeu_ps(p, v_mask(n), a.r); }

inline V v_add(V a, V b) { return {_mm512_add_ps(a.r, b.r)}; }
inline V v_sub(V a, V b) { return {_mm512_sub_ps(a.r, b.r)}; }
inline V v_mul(V a, V b) { return {_mm512_mul_ps(a.r, b.r)}; }
inline V v_div(V a, V b) { return {_mm512_div_ps(a.r, b.r)}; }
// The second operand when either is NaN.
inline V v_max(V a, V b) { return {_mm512_max_ps(a.r, b.r)}; }
inline V v_min(V a, V b) { return {_mm512_min_ps(a.r, b.r)}; }
inline V v_sqrt(V a) { return {_mm512_sqrt_ps(a.r)}; }
// a*b + c
inline V v_fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }

// 16 bf16 values -> f32.
inline V v_load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
// f32 -> bf16 bits in the low half of each lane; nearest even, NaN kept quiet.
inline VI v_bf16_bits(V a) {
  const __m512i bits = _mm512_castps_si512(a.r);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.r, a.r, _CMP_UNORD_Q);
  return {_mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40))};
}
inline void v_store_bf16(uint16_t* p, V a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v_bf16_bits(a).r));
}
// Rounded to bf16, kept as f32.
inline V v_round_bf16(V a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(v_bf16_bits(a).r, 16))}; }

// A chunk of 16 pairs of bf16 (64 bytes): even (low half) and odd (high half) elements as f32.
struct VPair {
  V even, odd;
};
inline VPair v_load_pairs(const void* p) {
  const __m512i bits = _mm512_loadu_si512(p);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}};
}

// A pair of bf16 in one word (an activation pair), each half in all lanes as f32.
inline VPair v_set_pair(uint32_t pair) {
  const __m512i bits = _mm512_set1_epi32(static_cast<int>(pair));
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}};
}
// 32 consecutive values rounded to 16 bf16 pairs, lane i = (value 2i, value 2i+1). Only a carrier for bits.
inline V v_pack_pairs(V low, V high) {
  const __m512i half = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(v_bf16_bits(low).r));
  return {_mm512_castsi512_ps(_mm512_inserti64x4(half, _mm512_cvtepi32_epi16(v_bf16_bits(high).r), 1))};
}
// out[4*i + r] = lane i of row r: four rows become sixteen groups of four.
inline void v_store_transposed4(float* out, V a, V b, V c, V d) {
  const __m512 ab_low = _mm512_unpacklo_ps(a.r, b.r), ab_high = _mm512_unpackhi_ps(a.r, b.r);
  const __m512 cd_low = _mm512_unpacklo_ps(c.r, d.r), cd_high = _mm512_unpackhi_ps(c.r, d.r);
  // 128-bit group g of `columns[j]` is column 4g + j
  const __m512 columns[4] = {_mm512_shuffle_ps(ab_low, cd_low, 0x44), _mm512_shuffle_ps(ab_low, cd_low, 0xee),
                             _mm512_shuffle_ps(ab_high, cd_high, 0x44), _mm512_shuffle_ps(ab_high, cd_high, 0xee)};
  for (int j = 0; j < 4; ++j) {
    _mm_storeu_ps(out + 4 * j, _mm512_castps512_ps128(columns[j]));
    _mm_storeu_ps(out + 16 + 4 * j, _mm512_extractf32x4_ps(columns[j], 1));
    _mm_storeu_ps(out + 32 + 4 * j, _mm512_extractf32x4_ps(columns[j], 2));
    _mm_storeu_ps(out + 48 + 4 * j, _mm512_extractf32x4_ps(columns[j], 3));
  }
}
// Into all cache levels; any address is allowed.
inline void v_prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// 2^n for integral n in [-126, 127] held as float, exact.
inline V v_exp2_int(V n) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.r), _mm512_set1_epi32(127)), 23))};
}
inline V v_round(V a) { return {_mm512_roundscale_ps(a.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a < b ? x : y per lane (false for NaN).
inline V v_select_lt(V a, V b, V x, V y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.r, b.r, _CMP_LT_OQ), y.r, x.r)};
}

// Fixed tree over lanes (8, 4, 2, 1 apart): the same bits on every call.
inline float v_sum(V a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.r), _mm512_extractf32x8_ps(a.r, 1));
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
inline float v_max_lane(V a) { return _mm512_reduce_max_ps(a.r); }

// --- 64 weight codes, one per byte: byte 4r + j belongs to row r. VI is also 16 int32 lanes, one per row.
inline VI v_set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline VI v_load_codes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void v_store_codes(void* p, VI a) { _mm512_storeu_si512(p, a.r); }
inline VI v_bytes(int x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
// Bits S.. of every byte, as far as Mask goes; Mask << S fits in a byte.
template <int S, int Mask>
inline VI v_field(VI a) {
  return {_mm512_and_si512(S == 0 ? a.r : _mm512_srli_epi32(a.r, S), v_bytes(Mask).r)};
}
// Bit i of the 8 bytes at p: byte i is x or 0.
inline VI v_bits(const void* p, int x) {
  uint64_t mask;
  memcpy(&mask, p, 8);
  return {_mm512_maskz_mov_epi8(mask, v_bytes(x).r)};
}
inline VI v_or(VI a, VI b) { return {_mm512_or_si512(a.r, b.r)}; }
inline VI v_add8(VI a, VI b) { return {_mm512_add_epi8(a.r, b.r)}; }
inline VI v_sub8(VI a, VI b) { return {_mm512_sub_epi8(a.r, b.r)}; }
inline VI v_min8(VI a, VI b) { return {_mm512_min_epu8(a.r, b.r)}; }
// table[low four bits] for bytes below 128.
inline VI v_lookup8(const uint8_t* table, VI a) {
  const __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm512_shuffle_epi8(t, a.r)};
}
// a < limit ? x : y per byte, for a and limit below 128.
inline VI v_select_lt8(VI a, int limit, VI x, VI y) {
  return {_mm512_mask_blend_epi8(_mm512_cmplt_epu8_mask(a.r, v_bytes(limit).r), y.r, x.r)};
}
struct VIPair {
  VI first, second;
};
// Bytes 2j and 2j+1 of `first` are low and high byte j = 0, 1 of the row, those of `second` j = 2, 3.
inline VIPair v_merge_bytes(VI low, VI high) {
  const __m512 a = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low.r, high.r));  // rows 0, 1 of each 128 bits
  const __m512 b = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low.r, high.r));  // rows 2, 3
  return {{_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88))}, {_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd))}};
}
// acc + sum over j of code[4r + j] * (signed byte j of x); codes unsigned. Exact.
constexpr bool kShiftedFull = false;  // see vec_avx2.h
inline VI v_dot8(VI acc, VI codes, int32_t x) { return {_mm512_dpbusd_epi32(acc.r, codes.r, _mm512_set1_epi32(x))}; }
inline VI v_dot8_full(VI acc, VI codes, int32_t x) { return v_dot8(acc, codes, x); }
inline VI v_add_int(VI a, VI b) { return {_mm512_add_epi32(a.r, b.r)}; }
inline V v_from_int(VI a) { return {_mm512_cvtepi32_ps(a.r)}; }
// Byte J of each lane.
template <int J>
inline VI v_lane_byte(VI a) {
  return {_mm512_and_si512(_mm512_srli_epi32(a.r, 8 * J), _mm512_set1_epi32(0xff))};
}
// table[lane], lanes 0..15.
inline V v_lookup_f32(const float* table, VI lanes) { return {_mm512_permutexvar_ps(lanes.r, _mm512_loadu_ps(table))}; }
inline V v_load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// Nearest even; |a| <= 127.
inline void v_store_int8(void* p, V a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.r)));
}

}  // namespace
