// Plain element types of the kernels and their conversions, the same bits on a GPU and in emulation. Own types rather
// than cuda_bf16.h, so that machines without the toolkit can build and run the emulator.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define SMOE_HD __host__ __device__ __forceinline__
#else
#define SMOE_HD inline
#endif

namespace smoe::cu {

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

struct e4m3 {
  uint8_t bits;
};

// 16 bytes moved by one instruction per lane; a packed weight atom is one of these per lane of a warp.
struct alignas(16) U32x4 {
  uint32_t x[4];
};

struct alignas(8) U32x2 {
  uint32_t x[2];
};

template <class To, class From>
SMOE_HD To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

SMOE_HD float to_float(bf16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// The value's bits shifted under an f32 exponent read 2^-112 too small, subnormals included. Finite values only:
// storage of scales and zero points.
SMOE_HD float to_float(f16 value) {
  const float magnitude = bit_cast<float>(static_cast<uint32_t>(value.bits & 0x7FFFu) << 13) * 0x1p112f;
  return bit_cast<float>(static_cast<uint32_t>(value.bits & 0x8000u) << 16 | bit_cast<uint32_t>(magnitude));
}

// Round to nearest even. NaN becomes 0x7FFF, which is what cvt.rn.bf16.f32 gives (PTX ISA, "cvt").
SMOE_HD bf16 to_bf16(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FFF};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

// Two bf16 in one register; the lower index lies in the lower half, as every mma fragment has it.
SMOE_HD uint32_t pack2(bf16 low, bf16 high) { return low.bits | static_cast<uint32_t>(high.bits) << 16; }
SMOE_HD uint32_t pack2(float low, float high) { return pack2(to_bf16(low), to_bf16(high)); }
SMOE_HD bf16 half_of(uint32_t pair, int half) { return {static_cast<uint16_t>(pair >> (16 * half))}; }

// e4m3: sign, 4 exponent bits with bias 7, 3 fraction bits; no infinity, 0x7F is NaN (OCP 8-bit floating point, E4M3).
// The value's bits shifted under a bf16 exponent read 2^-120 too small, subnormals included.
SMOE_HD float to_float(e4m3 value) {
  const uint32_t magnitude = value.bits & 0x7Fu, sign = static_cast<uint32_t>(value.bits & 0x80u) << 24;
  if (magnitude == 0x7F) return bit_cast<float>(0x7FFFFFFFu);
  return bit_cast<float>(sign | bit_cast<uint32_t>(bit_cast<float>(magnitude << 20) * 0x1p120f));
}

// Nearest even, saturating at 448 (the satfinite form of cvt).
SMOE_HD e4m3 to_e4m3(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value), sign = (bits >> 24) & 0x80u;
  float magnitude = bit_cast<float>(bits & 0x7FFFFFFFu);
  if (magnitude != magnitude) return {0x7F};
  if (magnitude > 448.0f) magnitude = 448.0f;
  if (magnitude < 0x1p-6f) {
    // Subnormals are multiples of 2^-9; adding 2^14 leaves exactly those in an f32 and rounds to nearest even.
    const float rounded = magnitude + 16384.0f;
    return {static_cast<uint8_t>(sign | (bit_cast<uint32_t>(rounded) - bit_cast<uint32_t>(16384.0f)))};
  }
  const uint32_t m = bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = (m + 0x7FFFFu + ((m >> 20) & 1u)) >> 20;  // keeps 3 fraction bits
  return {static_cast<uint8_t>(sign | (rounded - (120u << 3)))};     // exponent bias 127 -> 7
}

}  // namespace smoe::cu
