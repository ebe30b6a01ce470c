// Small layers of a chosen shape, for the tests of layers on a device.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "../moe_layer_support.h"

namespace smoe_test {

struct Shape {
  int64_t hidden = 40, width = 24, experts = 6;
  int k = 2;
  WeightFormat format = WeightFormat::BF16;
  Precision precision = Precision::Exact;
  bool shared = true;
};

inline MoeLayer make_layer(Random& random, const Shape& shape) {
  MoeLayer layer;
  layer.config.hidden = shape.hidden;
  layer.config.precision = shape.precision;
  layer.config.router.experts = shape.experts;
  layer.config.router.k = shape.k;
  layer.config.router.norm_p = 1;
  layer.router_weight = matrix(random, shape.experts, shape.hidden, WeightFormat::F32);
  for (int64_t e = 0; e < shape.experts; ++e) {
    layer.experts.push_back(expert(random, shape.hidden, shape.width, true, false, shape.format));
  }
  if (shape.shared) {
    layer.shared.push_back(expert(random, shape.hidden, 2 * shape.width, true, false, shape.format));
    layer.shared_gate = matrix(random, 1, shape.hidden, WeightFormat::F32);
  }
  REQUIRE(layer.validate().ok());
  return layer;
}

// Bit-nested, in groups of 32 columns where they divide them.
inline PackedMatrix nested_matrix(Random& random, int64_t rows, int64_t cols, int planes) {
  const std::vector<float> values = random.row(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
  RtnOptions options;
  options.group = cols % 32 == 0 ? 32 : cols;
  options.planes = planes;
  QuantizedMatrix codes;
  REQUIRE(quantize_rtn({values.data(), Dtype::F32, rows, cols}, WeightFormat::WN, options, &codes).ok());
  PackedMatrix packed;
  REQUIRE(pack_quantized(codes, &packed).ok());
  return packed;
}

// f32 sums of at most 40 + 48 terms and an activation on both sides, relative to magnitudes that are a few times the
// results; in fast the units of one side may round to the other bf16.
inline void check_close(const std::vector<float>& got, const std::vector<float>& want, Precision precision) {
  REQUIRE(got.size() == want.size());
  const double relative = precision == Precision::Exact ? 2e-5 : 0.03;
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(std::fabs(got[i] - want[i]) <= relative * (1 + std::fabs(static_cast<double>(want[i]))));
  }
}

}  // namespace smoe_test
