// Scales and zero points for the wide tiles of the prefill GEMMs.
#pragma once

#include "kernels/experts/group_scales.cuh"

namespace smoe::cu {

// A choice made while compiling, as an argument.
template <bool flag>
struct Flag {
  static constexpr bool value = flag;
};

// Scales and zero points of a warp's row blocks, a group ahead. What is loaded are the words of which they are part,
// whatever their type, so that no branch stands between the loads; the 16 of a row block begin at such a word.
template <int kBlocks, bool asymmetric>
struct WideScales {
  const unsigned char *scales, *zeros;
  uint32_t at[kBlocks];  // bytes to the element of row g
  int left;
  float mul;
  ScaleType type;
  uint32_t scale[kBlocks][2], zero[kBlocks][2];  // of rows g and g + 8

  SMOE_DEVICE int log_size() const { return type == ScaleType::F32 ? 2 : type == ScaleType::F16 ? 1 : 0; }
  SMOE_DEVICE WideScales(const AtomMatrix& m, int block0, int blocks, int padded)
      : scales(static_cast<const unsigned char*>(m.scales)),
        zeros(static_cast<const unsigned char*>(m.zeros)),
        mul(m.mul),
        type(m.scale_type) {
    left = m.group > 0 ? (padded + m.group - 1) / m.group : 1;
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const int block = block0 + b < blocks ? block0 + b : blocks - 1;
      at[b] = (static_cast<uint32_t>(block * left) * kAtomRows + lane() / 4) << log_size();
    }
    load();
  }
  // After the last group its scales are loaded again, for nobody.
  SMOE_DEVICE void next() {
    const uint32_t step = --left > 0 ? kAtomRows << log_size() : 0;
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) at[b] += step;
    load();
  }
  SMOE_DEVICE void load() {
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = (at[b] & ~3u) + (static_cast<uint32_t>(8 * half) << log_size());
        scale[b][half] = ldg(reinterpret_cast<const uint32_t*>(scales + word));
        if constexpr (asymmetric) zero[b][half] = ldg(reinterpret_cast<const uint32_t*>(zeros + word));
      }
    }
  }
  template <class Value>
  SMOE_DEVICE void values_of(Value value, float (&s)[kBlocks][2], float (&z)[kBlocks][2]) const {
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        s[b][half] = value(scale[b][half]) * mul;
        if constexpr (asymmetric) z[b][half] = value(zero[b][half]);
      }
    }
  }
  SMOE_DEVICE void values(float (&s)[kBlocks][2], float (&z)[kBlocks][2]) const {
    const int g = lane() / 4;
    if (type == ScaleType::F32) {
      values_of([](uint32_t word) { return plane_float(word, ScaleType::F32); }, s, z);
    } else if (type == ScaleType::F16) {
      values_of([g](uint32_t word) { return plane_float(word >> g % 2 * 16, ScaleType::F16); }, s, z);
    } else {
      values_of([g](uint32_t word) { return plane_float(word >> g % 4 * 8 & 255u, ScaleType::E8m0); }, s, z);
    }
  }
};

}  // namespace smoe::cu
