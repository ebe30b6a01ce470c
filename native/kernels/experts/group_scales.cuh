// Scales and zero points of a row block, group after group.
#pragma once

#include "kernels/experts/atoms.h"
#include "kernels/experts/expert_args.h"

namespace smoe::cu {

// Element `at` of a plane as it is stored, and its value.
SMOE_DEVICE uint32_t plane_bits(const void* plane, ScaleType type, int64_t at) {
  if (type == ScaleType::F32) return ldg(static_cast<const uint32_t*>(plane) + at);
  if (type == ScaleType::F16) return ldg(static_cast<const uint16_t*>(plane) + at);
  return ldg(static_cast<const uint8_t*>(plane) + at);
}
SMOE_DEVICE float plane_float(uint32_t bits, ScaleType type) {
  if (type == ScaleType::F32) return bit_cast<float>(bits);
  if (type == ScaleType::F16) return half_to_float(bits);
  return bit_cast<float>(bits == 0 ? 0x00400000u : bits << 23);  // 2^-127 is subnormal
}
SMOE_DEVICE float plane_value(const void* plane, ScaleType type, int64_t at) {
  return plane_float(plane_bits(plane, type, at), type);
}
// The plane from element `at` on.
SMOE_DEVICE const void* plane_at(const void* plane, ScaleType type, int64_t at) {
  const int shift = type == ScaleType::F32 ? 2 : type == ScaleType::F16 ? 1 : 0;
  return static_cast<const unsigned char*>(plane) + (at << shift);
}
// Of a group's rows g and g + 8, both: one branch for the two. plane: of row g of group 0.
SMOE_DEVICE void plane_pair(const void* plane, ScaleType type, int group, uint32_t (&bits)[2]) {
  const auto load = [&](auto* from, ScaleType known) {
    from += group * kAtomRows;
    bits[0] = plane_bits(from, known, 0);
    bits[1] = plane_bits(from, known, 8);
  };
  if (type == ScaleType::F32) {
    load(static_cast<const uint32_t*>(plane), ScaleType::F32);
  } else if (type == ScaleType::F16) {
    load(static_cast<const uint16_t*>(plane), ScaleType::F16);
  } else {
    load(static_cast<const uint8_t*>(plane), ScaleType::E8m0);
  }
}
SMOE_DEVICE void plane_floats(const uint32_t (&bits)[2], ScaleType type, float (&value)[2]) {
  if (type == ScaleType::F32) {
    for (int i = 0; i < 2; ++i) value[i] = plane_float(bits[i], ScaleType::F32);
  } else if (type == ScaleType::F16) {
    for (int i = 0; i < 2; ++i) value[i] = plane_float(bits[i], ScaleType::F16);
  } else {
    for (int i = 0; i < 2; ++i) value[i] = plane_float(bits[i], ScaleType::E8m0);
  }
}

// The scales, and zero points, that a lane needs of one row block, group after group: those of rows g and g + 8.
class GroupScales {
 public:
  // From column `col` of a block of `padded` columns on.
  SMOE_DEVICE void start(const AtomMatrix& matrix, int64_t block, int64_t col, int64_t padded) {
    scales_ = matrix.scales;
    zeros_ = matrix.zeros;
    type_ = matrix.scale_type;
    mul_ = matrix.mul;
    const int64_t groups = matrix.group > 0 ? (padded + matrix.group - 1) / matrix.group : 1;
    const int64_t group = matrix.group > 0 ? col / matrix.group : 0;
    at_ = (off(block, groups) + group) * kAtomRows + lane() / 4;
    left_ = groups - group;
    load();
  }
  SMOE_DEVICE bool symmetric() const { return zeros_ == nullptr; }
  // Of row g (half 0) or g + 8.
  SMOE_DEVICE float scale(int half) const { return scale_[half]; }
  SMOE_DEVICE float zero(int half) const { return zero_[half]; }
  // acc += the sum of this group, scaled; the sum becomes zero.
  SMOE_DEVICE void add(float (&sum)[4], const float (&x_sum)[4], float (&acc)[4]) const {
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float value = symmetric() ? sum[i] : fma(-zero_[i >> 1], x_sum[i], sum[i]);
      acc[i] = fma(scale_[i >> 1], value, acc[i]);
      sum[i] = 0;
    }
  }
  // Loads now what is needed at the end of the next group.
  SMOE_DEVICE void next() {
    if (--left_ <= 0) return;
    at_ += kAtomRows;
    load();
  }

 private:
  SMOE_DEVICE void load() {
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      scale_[half] = plane_value(scales_, type_, at_ + 8 * half) * mul_;
      if (!symmetric()) zero_[half] = plane_value(zeros_, type_, at_ + 8 * half);
    }
  }

  const void *scales_ = nullptr, *zeros_ = nullptr;
  ScaleType type_ = ScaleType::F32;
  float mul_ = 1;
  int64_t at_ = 0, left_ = 0;
  float scale_[2] = {0, 0}, zero_[2] = {0, 0};
};

SMOE_DEVICE void clear(float (&sum)[4]) {
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) sum[i] = 0;
}

}  // namespace smoe::cu
