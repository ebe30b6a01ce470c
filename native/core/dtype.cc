#include "core/dtype.h"

namespace smoe {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Sources may start at any byte (a tensor inside a mapped file), hence the copies.
uint16_t load_u16(const void* source, size_t index) {
  uint16_t value;
  std::memcpy(&value, static_cast<const unsigned char*>(source) + 2 * index, 2);
  return value;
}

void store_u16(void* out, size_t index, uint16_t value) {
  std::memcpy(static_cast<unsigned char*>(out) + 2 * index, &value, 2);
}

}  // namespace

float f16_to_f32(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t exponent = (value >> 10) & 0x1fu;
  const uint32_t fraction = value & 0x3ffu;
  // A subnormal is fraction * 2^-24; the product is exact and f32 holds it as a normal number.
  if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(fraction) * 0x1p-24f));
  // Infinity and NaN keep their fraction; signalling NaNs are quietened, as the conversion instructions do.
  if (exponent == 31) return float_of(sign | 0x7f800000u | (fraction << 13) | (fraction != 0 ? 0x400000u : 0u));
  return float_of(sign | ((exponent + (127 - 15)) << 23) | (fraction << 13));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  // 65520 lies half-way between the largest finite f16 (65504) and 2^16, and the tie goes to the even 2^16 = infinity.
  if (magnitude >= bits_of(65520.0f)) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < bits_of(0x1p-14f)) {
    // Subnormal result: adding 0.5, whose last place is 2^-24 = one f16 subnormal step, makes the f32 adder round to
    // that step (nearest even), and the step count is left in the low bits.
    return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
  }
  // Drop 13 fraction bits, nearest even; a carry runs into the exponent as it should.
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - ((127u - 15u) << 10)));
}

void to_f32(const void* source, Dtype dtype, size_t count, float* out) {
  switch (dtype) {
    case Dtype::F32:
      if (count > 0) std::memcpy(out, source, count * 4);
      break;
    case Dtype::F16:
      for (size_t i = 0; i < count; ++i) out[i] = f16_to_f32(load_u16(source, i));
      break;
    case Dtype::BF16:
      for (size_t i = 0; i < count; ++i) out[i] = bf16_to_f32(load_u16(source, i));
      break;
    default:
      break;
  }
}

void from_f32(const float* source, size_t count, Dtype dtype, void* out) {
  switch (dtype) {
    case Dtype::F32:
      if (count > 0) std::memcpy(out, source, count * 4);
      break;
    case Dtype::F16:
      for (size_t i = 0; i < count; ++i) store_u16(out, i, f32_to_f16(source[i]));
      break;
    case Dtype::BF16:
      for (size_t i = 0; i < count; ++i) store_u16(out, i, f32_to_bf16(source[i]));
      break;
    default:
      break;
  }
}

}  // namespace smoe
