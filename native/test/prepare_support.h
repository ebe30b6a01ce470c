// What the tests of quantizers share.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "prepare/quantize.h"

namespace smoe_test {

inline std::vector<float> gaussian(int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) value = normal(engine);
  return out;
}

inline smoe::QuantizeReport run(const std::vector<float>& w, int64_t cols, const smoe::QuantizeOptions& options,
                                const smoe::OuterSum* hessian = nullptr, smoe::QuantizedMatrix* out = nullptr) {
  smoe::QuantizedMatrix matrix;
  smoe::QuantizeReport report;
  const auto rows = static_cast<int64_t>(w.size()) / cols;
  const smoe::Status status =
      smoe::quantize(w.data(), rows, cols, options, hessian, smoe::ThreadPool::process(), nullptr, &matrix, &report);
  REQUIRE_MESSAGE(status.ok(), status.message());
  if (out != nullptr) *out = std::move(matrix);
  return report;
}

constexpr smoe::WeightFormat kBelowEight[] = {smoe::WeightFormat::W4, smoe::WeightFormat::W3, smoe::WeightFormat::W2,
                                              smoe::WeightFormat::W1, smoe::WeightFormat::T2};

}  // namespace smoe_test
