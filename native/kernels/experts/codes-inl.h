// What a unit of each quantized format holds (formats/planes.h), as vectors of 64 codes: byte 4r + j of code<S> belongs
// to row r and to column 4S + j of the unit. This is all that the loops of quantized-inl.h know about a format.
#pragma once

#include "kernels/kernel_table.h"

namespace {

struct CodesW8 {
  static constexpr int kSteps = 1, kBytes = 64;  // steps of four columns, and bytes, per unit
  static constexpr int kMaxCode = 255;
  template <int S>
  static inline VI code(const unsigned char* w) {
    return v_load_codes(w);
  }
};

struct CodesW4 {
  static constexpr int kSteps = 2, kBytes = 64;
  static constexpr int kMaxCode = 15;
  template <int S>
  static inline VI code(const unsigned char* w) {
    return v_field<4 * S, 15>(v_load_codes(w));
  }
};

struct CodesW2 {
  static constexpr int kSteps = 4, kBytes = 64;
  static constexpr int kMaxCode = 3;
  template <int S>
  static inline VI code(const unsigned char* w) {
    return v_field<2 * S, 3>(v_load_codes(w));
  }
};

// Two chunks of low bits, then eight masks of the high bit.
struct CodesW3 {
  static constexpr int kSteps = 8, kBytes = 192;
  static constexpr int kMaxCode = 7;
  template <int S>
  static inline VI code(const unsigned char* w) {
    return v_or(v_field<2 * (S % 4), 3>(v_load_codes(w + 64 * (S / 4))), v_bits(w + 128 + 8 * S, 4));
  }
};

// Codes 0 and 2 around a zero point of 1: w = scale * (2 bit - 1).
struct CodesW1 {
  static constexpr int kSteps = 8, kBytes = 64;
  static constexpr int kMaxCode = 2;
  template <int S>
  static inline VI code(const unsigned char* w) {
    return v_bits(w + 8 * S, 2);
  }
};

// v mod kBase for v < 3 * kBase (and kBase >= 64 or v small enough that v - kBase wraps to something larger).
template <int kBase>
inline VI remainder3(VI v) {
  v = v_min8(v, v_sub8(v, v_bytes(kBase)));
  return v_min8(v, v_sub8(v, v_bytes(kBase)));
}

// Five base-3 digits per byte, most significant taken off first. 81, 27 and 9 times a digit are told apart by their low
// four bits (27: 0, 11, 6; 9: 0, 9, 2), 81 times a digit by its top two (0, 81, 162).
struct CodesT5 {
  static constexpr int kSteps = 5, kBytes = 64;
  static constexpr int kMaxCode = 2;
  template <int S>
  static inline VI code(const unsigned char* w) {
    static const uint8_t third[16] = {0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    static const uint8_t second[16] = {0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    static const uint8_t first[16] = {0, 0, 0, 1, 1, 1, 2, 2, 2};
    static const uint8_t zeroth[16] = {0, 1, 2, 0, 1, 2, 0, 1, 2};
    const VI v = v_load_codes(w), r4 = remainder3<81>(v);
    if (S == 4) return v_field<6, 3>(v_sub8(v, r4));
    const VI r3 = remainder3<27>(r4);
    if (S == 3) return v_lookup8(third, v_sub8(r4, r3));
    const VI r2 = remainder3<9>(r3);
    if (S == 2) return v_lookup8(second, v_sub8(r3, r2));
    return v_lookup8(S == 1 ? first : zeroth, r2);
  }
};

// The low and high bytes of the bf16 values that the codes of w4c and f8 stand for.
struct ValuesW4C {
  static constexpr int kSteps = 2, kBytes = 64;
  const uint8_t* low;
  const uint8_t* high;
  explicit ValuesW4C(int codebook);
  template <int S>
  inline VIPair pairs(const unsigned char* w) const {
    const VI code = CodesW4::code<S>(w);
    return v_merge_bytes(v_lookup8(low, code), v_lookup8(high, code));
  }
};

// E4M3 s eeee mmm is bf16 s (e + 120) mmm0000: low byte e0 mmm 0000, high byte s and 60 + e/2. The eight codes without
// an exponent are m * 2^-9.
struct ValuesF8 {
  static constexpr int kSteps = 1, kBytes = 64;
  explicit ValuesF8(int) {}
  template <int S>
  inline VIPair pairs(const unsigned char* w) const {
    static const uint8_t small_low[16] = {0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60};
    static const uint8_t small_high[16] = {0x00, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c};
    const VI v = v_load_codes(w), magnitude = v_field<0, 0x7f>(v);
    // a shift by 4 to the left: x16 by four doublings would carry into the neighbour, so the bits above are cleared
    // first
    const VI nibble = v_field<0, 15>(v), twice = v_add8(nibble, nibble), four = v_add8(twice, twice),
             eight = v_add8(four, four);
    const VI low = v_select_lt8(magnitude, 8, v_lookup8(small_low, magnitude), v_add8(eight, eight));
    const VI high = v_select_lt8(magnitude, 8, v_lookup8(small_high, magnitude), v_add8(v_field<4, 7>(v), v_bytes(60)));
    return v_merge_bytes(low, v_or(high, v_field<0, 0x80>(v)));
  }
};

// E2M1 (MXFP4, NVFP4), then NF4 (QLoRA's table), as f32.
const float codebook_values[2][16] = {
    {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6},
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f}};
// The same rounded to bf16, low bytes and high bytes.
const uint8_t codebook_low[2][16] = {
    {0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0},
    {0x80, 0x32, 0x06, 0xca, 0x92, 0x3d, 0xba, 0x00, 0xa3, 0x25, 0x7c, 0xad, 0xe2, 0x10, 0x39, 0x80}};
const uint8_t codebook_high[2][16] = {
    {0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0},
    {0xbf, 0xbf, 0xbf, 0xbe, 0xbe, 0xbe, 0xbd, 0x00, 0x3d, 0x3e, 0x3e, 0x3e, 0x3e, 0x3f, 0x3f, 0x3f}};
inline int codebook_index(int codebook) { return codebook == 2 ? 1 : 0; }

inline ValuesW4C::ValuesW4C(int codebook)
    : low(codebook_low[codebook_index(codebook)]), high(codebook_high[codebook_index(codebook)]) {}

}  // namespace
