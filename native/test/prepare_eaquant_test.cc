#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "prepare/eaquant.h"

using namespace smoe;

namespace {

std::vector<float> gaussian(int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) value = normal(engine);
  return out;
}

}  // namespace

TEST_CASE("V12: smoothing scales of experts and router, merged") {
  const std::vector<double> input = {4, 0.5, 2};
  const std::vector<std::vector<double>> weights = {{0.5, 0.25, 1}, {0.2, 0.8, 0.4}, {0.1, 0.1, 0.3}};
  const double expected[3][3] = {{3.03143, 1.1487, 1.51572}, {4.37345, 0.72135, 2.18672}, {5.7708, 1.65723, 2.45341}};
  std::vector<std::vector<double>> scales;
  for (size_t i = 0; i < 3; ++i) {
    scales.push_back(smoothing_scales(input, weights[i]));
    for (size_t j = 0; j < 3; ++j) CHECK(scales[i][j] == doctest::Approx(expected[i][j]).epsilon(1e-4));
  }
  const std::vector<double> merged = merge_smoothing(scales);
  for (size_t j = 0; j < 3; ++j) CHECK(merged[j] == scales[2][j]);
  CHECK(smoothing_scales({1, 0}, {0, 1}) == std::vector<double>{1, 1e-5});
}

TEST_CASE("router clipping: never further from the exact router than without, and it pays with an outlier") {
  const int64_t experts = 12, hidden = 64, tokens = 80;
  std::vector<float> weight = gaussian(experts * hidden, 1), inputs = gaussian(tokens * hidden, 2);
  const RouterClip plain = align_router(weight.data(), experts, hidden, inputs.data(), tokens, 2);
  CHECK(plain.kl <= plain.kl_plain);
  CHECK(plain.kl >= 0);
  CHECK(plain.ratio >= 0.35);
  // Weights far outside on channels that are never active: their range can go.
  for (int64_t e = 0; e < experts; ++e) {
    weight[size_t(e * hidden)] = 20;
    weight[size_t(e * hidden + 1)] = -20;
  }
  for (int64_t t = 0; t < tokens; ++t) inputs[size_t(t * hidden)] = inputs[size_t(t * hidden + 1)] = 0;
  const RouterClip clipped = align_router(weight.data(), experts, hidden, inputs.data(), tokens, 2);
  CHECK(clipped.ratio < 0.5);
  CHECK(clipped.kl < 0.5 * clipped.kl_plain);
}

TEST_CASE("calibration is balanced when the rarest expert has its share") {
  CHECK(balance_target(1000, 2, 16) == 250);
  CHECK(balance_target(10, 1, 3) == 7);
  CHECK(balanced({250, 300}, 250));
  CHECK_FALSE(balanced({249, 300}, 250));
}

TEST_CASE("AWQ protects the channels that matter, and is never worse than no scaling") {
  const int64_t k = 64, rows = 24, tokens = 200;
  std::vector<float> x = gaussian(tokens * k, 3), w = gaussian(rows * k, 4);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < 4; ++i) x[size_t(t * k + 16 * i)] *= 30;
  std::vector<const float*> pointers;
  for (int64_t t = 0; t < tokens; ++t) pointers.push_back(x.data() + t * k);
  OuterSum sum;
  REQUIRE(sum.resize(k).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, pointers.data(), tokens}}, nullptr).ok());
  for (WeightFormat format : {WeightFormat::W8, WeightFormat::W4, WeightFormat::W3, WeightFormat::W2}) {
    Grid grid;
    REQUIRE(make_grid(format, false, &grid).ok());
    const AwqScales found = awq_scales(grid, w.data(), rows, k, 32, sum);
    CHECK(found.loss <= found.loss_plain);
    for (float scale : found.scale) CHECK((std::isfinite(scale) && scale > 0));
    if (format != WeightFormat::W4) continue;
    CHECK(found.loss < 0.5 * found.loss_plain);
    CHECK(found.power > 0);
    CHECK(found.scale[16] > 2 * found.scale[17]);
  }
}
