// Random quantized matrices of every format, for the tests of formats and kernels.
#pragma once

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "formats/format_info.h"
#include "formats/quantized.h"
#include "formats/rtn.h"

namespace smoe_test {

constexpr smoe::WeightFormat kQuantized[] = {smoe::WeightFormat::W8, smoe::WeightFormat::W4, smoe::WeightFormat::W4C,
                                             smoe::WeightFormat::W3, smoe::WeightFormat::W2, smoe::WeightFormat::W1,
                                             smoe::WeightFormat::WN, smoe::WeightFormat::T2, smoe::WeightFormat::T5,
                                             smoe::WeightFormat::F8};

// Any code that the format allows, scales of f16's precision, zero points inside the range (fractional now and then).
inline smoe::QuantizedMatrix random_codes(std::mt19937& random, smoe::WeightFormat format, int64_t rows, int64_t cols,
                                          int64_t group, bool asymmetric) {
  const smoe::FormatInfo& info = *smoe::format_info(format);
  std::uniform_real_distribution<float> uniform(0.25f, 1.0f);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  smoe::QuantizedMatrix matrix;
  matrix.format = format;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.group = group;
  matrix.codes.resize(static_cast<size_t>(rows * cols));
  for (uint8_t& code : matrix.codes) {
    code = static_cast<uint8_t>(below(info.max_code + 1));
    if (format == smoe::WeightFormat::F8 && (code & 0x7f) == 0x7f) code = 0x7e;
  }
  const auto scales = [&] {
    std::vector<float> values(static_cast<size_t>(rows * matrix.groups()));
    for (float& value : values) {
      value = smoe::f16_to_f32(smoe::f32_to_f16(uniform(random) * (below(9) == 0 ? -1.0f : 1.0f)));
    }
    return values;
  };
  matrix.scales = scales();
  if (format == smoe::WeightFormat::W4C) matrix.codebook = below(3);
  if (format == smoe::WeightFormat::WN) {
    for (int plane = below(4); plane > 0; --plane) {
      smoe::QuantizedMatrix::Plane one;
      one.bits.resize(matrix.codes.size());
      for (uint8_t& bit : one.bits) bit = static_cast<uint8_t>(below(2));
      one.scales = scales();
      matrix.planes.push_back(one);
    }
  }
  if (asymmetric && info.asymmetric) {
    matrix.zeros.resize(matrix.scales.size());
    const bool fractional = below(2) == 0;
    for (float& zero : matrix.zeros) {
      zero = static_cast<float>(below(info.max_code + 1)) + (fractional ? 0.3f : 0.0f);
    }
  }
  if (below(2) == 0) matrix.mul = 0.37f;
  return matrix;
}

// Group sizes that the format allows for this many columns, the last one being all of them.
inline std::vector<int64_t> groups_of(smoe::WeightFormat format, int64_t cols) {
  std::vector<int64_t> groups;
  for (int64_t group : {16, 20, 32, 40, 64, 128}) {
    if (group < cols && cols % group == 0 && group % smoe::format_info(format)->unit_cols == 0) groups.push_back(group);
  }
  groups.push_back(cols);
  return groups;
}

}  // namespace smoe_test
