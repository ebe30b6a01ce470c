// Element types of tensors as they are stored, and exact conversions between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace smoe {

enum class Dtype : int { F32 = 0, F16 = 1, BF16 = 2, I32 = 3, U8 = 4, I8 = 5 };

inline size_t dtype_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::F32:
    case Dtype::I32:
      return 4;
    case Dtype::F16:
    case Dtype::BF16:
      return 2;
    case Dtype::U8:
    case Dtype::I8:
      return 1;
  }
  return 0;
}

inline const char* dtype_name(Dtype dtype) {
  static const char* const names[] = {"f32", "f16", "bf16", "i32", "u8", "i8"};
  return names[static_cast<int>(dtype)];
}

inline float bf16_to_f32(uint16_t value) {
  uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// Round to nearest, ties to even. NaN stays NaN: the quiet bit is set so that a payload living only in
// the dropped bits cannot turn into infinity.
inline uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t value);
uint16_t f32_to_f16(float value);  // round to nearest even

// Converts count elements at source (any floating dtype) to f32.
void to_f32(const void* source, Dtype dtype, size_t count, float* out);
// Converts count f32 to out (any floating dtype), rounding to nearest even.
void from_f32(const float* source, size_t count, Dtype dtype, void* out);

}  // namespace smoe
