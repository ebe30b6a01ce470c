#include "prepare/smoothing.h"

#include <doctest/doctest.h>

#include <cmath>

#include "prepare/align_router.h"
#include "prepare_support.h"

using namespace smoe;
using namespace smoe_test;

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

TEST_CASE("scales become the nearest powers of two, centred; idle channels keep 1") {
  CHECK(power_of_two_scales({1, 4, 16}, {1, 1, 1}) == std::vector<float>{0.25f, 1, 4});
  CHECK(power_of_two_scales({1, 5.5, 16}, {1, 1, 1}) == std::vector<float>{0.25f, 1, 4});
  CHECK(power_of_two_scales({1, 6, 16}, {1, 1, 1}) == std::vector<float>{0.25f, 2, 4});
  CHECK(power_of_two_scales({1, 4, 1e-5, 16}, {1, 1, 0, 1}) == std::vector<float>{0.25f, 1, 1, 4});
  CHECK(power_of_two_scales({1e-5, 1e-5}, {0, 0}) == std::vector<float>{1, 1});
  CHECK(power_of_two_scales({1e-30, 1e30}, {1, 1}) == std::vector<float>{0x1p-12f, 0x1p12f});
}

TEST_CASE("the moments of scaled inputs") {
  const float a[] = {1, 2}, b[] = {-3, 5}, scaled_a[] = {0.5f, 8}, scaled_b[] = {-1.5f, 20};
  const float* rows[] = {a, b};
  const float* scaled[] = {scaled_a, scaled_b};
  OuterSum sum, expected, got;
  REQUIRE(sum.resize(2).ok());
  REQUIRE(expected.resize(2).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, rows, 2}}, nullptr).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&expected, scaled, 2}}, nullptr).ok());
  const float scale[] = {2, 0.25f};
  REQUIRE(scale_inputs(sum, scale, &got).ok());
  CHECK(got.lower == expected.lower);
  CHECK(got.count == 2);
}

namespace {

OuterSum moments(const std::vector<float>& x, int64_t k) {
  std::vector<const float*> rows;
  for (size_t t = 0; t < x.size(); t += static_cast<size_t>(k)) rows.push_back(x.data() + t);
  OuterSum sum;
  REQUIRE(sum.resize(k).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, rows.data(), static_cast<int64_t>(rows.size())}}, nullptr).ok());
  return sum;
}

}  // namespace

TEST_CASE("AWQ protects the channels that matter, and is never worse than no scaling") {
  const int64_t k = 64, rows = 24, tokens = 200;
  std::vector<float> x = gaussian(tokens * k, 3), w = gaussian(rows * k, 4), other = gaussian(150 * k, 5);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < 4; ++i) x[size_t(t * k + 16 * i)] *= 30;
  const OuterSum sum = moments(x, k), white = moments(gaussian(20 * k, 6), k);
  ThreadPool one(1);
  for (WeightFormat format : {WeightFormat::W8, WeightFormat::W4, WeightFormat::W3, WeightFormat::W2}) {
    const bool search = format == WeightFormat::W3;
    Grid grid;
    REQUIRE(make_grid(format, false, &grid).ok());
    const std::vector<AwqMatrix> matrices = {{w.data(), rows, &sum}, {other.data(), 150, &white}};
    AwqScales found, again;
    REQUIRE(awq_scales(grid, matrices, k, 32, search, ThreadPool::process(), nullptr, &found).ok());
    REQUIRE(awq_scales(grid, matrices, k, 32, search, one, nullptr, &again).ok());
    CHECK(found.loss == again.loss);
    CHECK(found.scale == again.scale);
    CHECK(found.loss <= found.loss_plain);
    for (float scale : found.scale) {
      int exponent;
      CHECK(std::frexp(scale, &exponent) == 0.5f);
    }
    if (format != WeightFormat::W4) continue;
    CHECK(found.loss < 0.5 * found.loss_plain);
    CHECK(found.power > 0);
    CHECK(found.scale[16] >= 2 * found.scale[17]);
  }
}

TEST_CASE("AWQ without a single row keeps the weights, and refuses what does not fit") {
  Grid grid;
  REQUIRE(make_grid(WeightFormat::W4, true, &grid).ok());
  const std::vector<float> w = gaussian(64, 1);
  OuterSum none;
  REQUIRE(none.resize(16).ok());
  AwqScales found;
  REQUIRE(awq_scales(grid, {{w.data(), 4, &none}}, 16, 16, false, ThreadPool::process(), nullptr, &found).ok());
  CHECK(found.scale == std::vector<float>(16, 1.0f));
  CHECK(awq_scales(grid, {{w.data(), 4, &none}}, 16, 5, false, ThreadPool::process(), nullptr, &found).code() ==
        Code::InvalidArgument);
  CHECK(awq_scales(grid, {{w.data(), 2, &none}}, 32, 16, false, ThreadPool::process(), nullptr, &found).code() ==
        Code::ShapeMismatch);
  CancelFlag flag;
  flag.set = true;
  const OuterSum some = moments(w, 16);
  CHECK(awq_scales(grid, {{w.data(), 4, &some}}, 16, 16, false, ThreadPool::process(), &flag, &found).code() ==
        Code::Cancelled);
}

TEST_CASE("router clipping: never further from the exact router than without, and it pays with an outlier") {
  const int64_t experts = 12, hidden = 64, tokens = 80;
  std::vector<float> weight = gaussian(experts * hidden, 1), inputs = gaussian(tokens * hidden, 2);
  const std::vector<float> bias = gaussian(experts, 3);
  RouterAlignment router;
  router.weight = weight.data();
  router.bias = bias.data();
  router.experts = experts;
  router.hidden = hidden;
  router.inputs = inputs.data();
  router.tokens = tokens;
  router.k = 2;
  const auto align = [&](QuantizedMatrix* m) {
    RouterClip clip;
    REQUIRE(align_router(router, ThreadPool::process(), nullptr, &clip, m).ok());
    return clip;
  };
  QuantizedMatrix m;
  const RouterClip plain = align(&m);
  CHECK(plain.kl <= plain.kl_plain);
  CHECK(plain.kl >= 0);
  CHECK(plain.ratio >= 0.35);
  CHECK(m.zeros.size() == size_t(experts));
  // Weights far outside on channels that are never active: their range can go.
  for (int64_t e = 0; e < experts; ++e) {
    weight[size_t(e * hidden)] = 20;
    weight[size_t(e * hidden + 1)] = -20;
  }
  for (int64_t t = 0; t < tokens; ++t) inputs[size_t(t * hidden)] = inputs[size_t(t * hidden + 1)] = 0;
  const RouterClip clipped = align(&m);
  CHECK(clipped.ratio < 0.5);
  CHECK(clipped.kl < 0.5 * clipped.kl_plain);
  std::vector<float> row(static_cast<size_t>(hidden));
  dequantize_row(m, 3, row.data());
  CHECK(std::fabs(row[0]) < 20 * 0.55);
  CHECK(std::fabs(row[7] - weight[3 * 64 + 7]) <= 0.6 * m.scales[3]);
  router.tokens = 0;
  CHECK(align(&m).ratio == 1);
  weight[5] = NAN;
  RouterClip clip;
  CHECK(align_router(router, ThreadPool::process(), nullptr, &clip, &m).code() == Code::NonFiniteInput);
}
