// 16 f32 lanes as plain arrays that the compiler vectorises for its baseline. See vec_avx512.h.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

struct V {
  float l[16];
};
struct VI {
  uint32_t l[16];
};

#define SMOE_LANES(expression)                          \
  V out;                                                \
  for (int i = 0; i < 16; ++i) out.l[i] = (expression); \
  return out

inline V v_set(float x) { SMOE_LANES(x); }
inline V v_zero() { return v_set(0.0f); }
inline V v_load(const float* p) { SMOE_LANES(p[i]); }
inline void v_store(float* p, V a) { memcpy(p, a.l, sizeof a.l); }
inline V v_load_n(const float* p, int n) { SMOE_LANES(i < n ? p[i] : 0.0f); }
inline void v_store_n(float* p, V a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.l[i];
}

inline V v_add(V a, V b) { SMOE_LANES(a.l[i] + b.l[i]); }
inline V v_sub(V a, V b) { SMOE_LANES(a.l[i] - b.l[i]); }
inline V v_mul(V a, V b) { SMOE_LANES(a.l[i] * b.l[i]); }
inline V v_div(V a, V b) { SMOE_LANES(a.l[i] / b.l[i]); }
// As the x86 instructions: the second operand when either is NaN.
inline V v_max(V a, V b) { SMOE_LANES(a.l[i] > b.l[i] ? a.l[i] : b.l[i]); }
inline V v_min(V a, V b) { SMOE_LANES(a.l[i] < b.l[i] ? a.l[i] : b.l[i]); }
inline V v_sqrt(V a) { SMOE_LANES(sqrtf(a.l[i])); }
// Two roundings: the baseline has no fused multiply-add, and a library call per lane would be absurdly slow.
inline V v_fma(V a, V b, V c) { SMOE_LANES(a.l[i] * b.l[i] + c.l[i]); }

inline float v_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t v_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline V v_load_bf16(const uint16_t* p) { SMOE_LANES(v_from_bits(static_cast<uint32_t>(p[i]) << 16)); }
inline VI v_bf16_bits(V a) {
  VI out;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = v_to_bits(a.l[i]);
    out.l[i] = a.l[i] != a.l[i] ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  }
  return out;
}
inline void v_store_bf16(uint16_t* p, V a) {
  const VI b = v_bf16_bits(a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint16_t>(b.l[i]);
}
inline V v_round_bf16(V a) {
  const VI b = v_bf16_bits(a);
  SMOE_LANES(v_from_bits(b.l[i] << 16));
}

struct VPair {
  V even, odd;
};
inline VPair v_load_pairs(const void* p) {
  uint32_t bits[16];
  memcpy(bits, p, sizeof bits);
  VPair out;
  for (int i = 0; i < 16; ++i) {
    out.even.l[i] = v_from_bits(bits[i] << 16);
    out.odd.l[i] = v_from_bits(bits[i] & 0xffff0000u);
  }
  return out;
}

inline VPair v_set_pair(uint32_t pair) {
  return {v_set(v_from_bits(pair << 16)), v_set(v_from_bits(pair & 0xffff0000u))};
}
inline V v_pack_pairs(V low, V high) {
  const VI a = v_bf16_bits(low), b = v_bf16_bits(high);
  V out;
  for (int i = 0; i < 8; ++i) {
    out.l[i] = v_from_bits(a.l[2 * i] | a.l[2 * i + 1] << 16);
    out.l[8 + i] = v_from_bits(b.l[2 * i] | b.l[2 * i + 1] << 16);
  }
  return out;
}
inline void v_store_transposed4(float* out, V a, V b, V c, V d) {
  for (int i = 0; i < 16; ++i) {
    out[4 * i] = a.l[i];
    out[4 * i + 1] = b.l[i];
    out[4 * i + 2] = c.l[i];
    out[4 * i + 3] = d.l[i];
  }
}
#if defined(__GNUC__)
inline void v_prefetch(const void* p) { __builtin_prefetch(p); }
#else
inline void v_prefetch(const void*) {}
#endif

// Adding 1.5 * 2^23 leaves n in the low bits of the sum; no conversion to int, which would be undefined for NaN.
inline V v_exp2_int(V n) { SMOE_LANES(v_from_bits((v_to_bits(n.l[i] + 12582912.0f) + 127u) << 23)); }
// Adding and taking away 1.5 * 2^23 leaves the nearest integer (ties to even) for |x| < 2^22, which is all that
// exp's argument reduction needs.
inline V v_round(V a) { SMOE_LANES((a.l[i] + 12582912.0f) - 12582912.0f); }
inline V v_select_lt(V a, V b, V x, V y) { SMOE_LANES(a.l[i] < b.l[i] ? x.l[i] : y.l[i]); }

inline float v_sum(V a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.l[i] += a.l[i + width];
  }
  return a.l[0];
}
inline float v_max_lane(V a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.l[i] = a.l[i] > a.l[i + width] ? a.l[i] : a.l[i + width];
  }
  return a.l[0];
}

#define SMOE_WORDS(expression)                          \
  VI out;                                               \
  for (int i = 0; i < 16; ++i) out.l[i] = (expression); \
  return out
#define SMOE_BYTES(expression)                                                \
  VI out;                                                                     \
  uint8_t bytes[64];                                                          \
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>((expression)); \
  memcpy(out.l, bytes, 64);                                                   \
  return out

struct VBytes {
  uint8_t b[64];
  explicit VBytes(const VI& a) { memcpy(b, a.l, 64); }
};

inline VI v_set_int(int32_t x) { SMOE_WORDS(static_cast<uint32_t>(x)); }
inline VI v_load_codes(const void* p) {
  VI out;
  memcpy(out.l, p, 64);
  return out;
}
inline void v_store_codes(void* p, VI a) { memcpy(p, a.l, 64); }
inline VI v_bytes(int x) { SMOE_WORDS(static_cast<uint32_t>(x) * 0x01010101u); }
template <int S, int Mask>
inline VI v_field(VI a) {
  SMOE_WORDS((a.l[i] >> S) & (Mask * 0x01010101u));
}
inline VI v_bits(const void* p, int x) {
  uint8_t mask[8];
  memcpy(mask, p, 8);
  SMOE_BYTES((mask[i / 8] >> (i % 8) & 1) * x);
}
inline VI v_or(VI a, VI b) { SMOE_WORDS(a.l[i] | b.l[i]); }
inline VI v_add8(VI x, VI y) {
  const VBytes a(x), b(y);
  SMOE_BYTES(a.b[i] + b.b[i]);
}
inline VI v_sub8(VI x, VI y) {
  const VBytes a(x), b(y);
  SMOE_BYTES(a.b[i] - b.b[i]);
}
inline VI v_min8(VI x, VI y) {
  const VBytes a(x), b(y);
  SMOE_BYTES(a.b[i] < b.b[i] ? a.b[i] : b.b[i]);
}
inline VI v_lookup8(const uint8_t* table, VI x) {
  const VBytes a(x);
  SMOE_BYTES(table[a.b[i] & 15]);
}
inline VI v_select_lt8(VI a, int limit, VI x, VI y) {
  const VBytes key(a), low(x), high(y);
  SMOE_BYTES(key.b[i] < limit ? low.b[i] : high.b[i]);
}
struct VIPair {
  VI first, second;
};
inline VIPair v_merge_bytes(VI low, VI high) {
  VIPair out;
  for (int i = 0; i < 16; ++i) {
    const uint32_t a = low.l[i], b = high.l[i];
    out.first.l[i] = (a & 0xffu) | (b & 0xffu) << 8 | (a & 0xff00u) << 8 | (b & 0xff00u) << 16;
    out.second.l[i] = (a >> 16 & 0xffu) | (b >> 16 & 0xffu) << 8 | (a >> 8 & 0xff0000u) | (b & 0xff000000u);
  }
  return out;
}
constexpr bool kShiftedFull = false;  // see vec_avx2.h
inline VI v_dot8(VI acc, VI codes, int32_t x) {
  const uint32_t word = static_cast<uint32_t>(x);
  for (int j = 0; j < 4; ++j) {
    // Unsigned, so that two's complement products wrap as the signed ones do.
    const uint32_t factor = static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(word >> (8 * j))));
    for (int i = 0; i < 16; ++i) acc.l[i] += (codes.l[i] >> (8 * j) & 0xffu) * factor;
  }
  return acc;
}
inline VI v_dot8_full(VI acc, VI codes, int32_t x) { return v_dot8(acc, codes, x); }
inline VI v_add_int(VI a, VI b) { SMOE_WORDS(a.l[i] + b.l[i]); }
inline V v_from_int(VI a) { SMOE_LANES(static_cast<float>(static_cast<int32_t>(a.l[i]))); }
template <int J>
inline VI v_lane_byte(VI a) {
  SMOE_WORDS(a.l[i] >> (8 * J) & 0xffu);
}
inline V v_lookup_f32(const float* table, VI lanes) { SMOE_LANES(table[lanes.l[i] & 15]); }
// 2^112 moves the exponent from bias 15 to bias 127, subnormals included. No infinities or NaN.
inline V v_load_f16(const uint16_t* p) {
  SMOE_LANES(v_from_bits((p[i] & 0x7fffu) << 13 | (p[i] & 0x8000u) << 16) * 0x1p112f);
}
inline void v_store_int8(void* p, V a) {
  const V rounded = v_round(a);
  int8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<int8_t>(rounded.l[i]);
  memcpy(p, bytes, 16);
}

#undef SMOE_WORDS
#undef SMOE_BYTES
#undef SMOE_LANES

}  // namespace
