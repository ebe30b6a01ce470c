// Rounding on a grid and the searches for its parameters.
#include "prepare/grid.h"

#include <algorithm>

#include "prepare_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

double relative_rms(WeightFormat format, int64_t group, bool symmetric, QuantizeMethod method) {
  static const std::vector<float> w = gaussian(4000 * 128, 7);
  QuantizeOptions options;
  options.format = format;
  options.group = group;
  options.symmetric = symmetric;
  options.method = method;
  const QuantizeReport report = run(w, 1280, options);
  return std::sqrt(report.squared_error / report.squared_weight);
}

}  // namespace

TEST_CASE("V1: absmean ternary") {
  const std::vector<float> w = {0.9f, -0.05f, 0.3f,  -1.2f, 0,     0.5f,  -0.45f, 0.1f,
                                0.2f, -0.7f,  0.35f, 0.6f,  -0.1f, -0.3f, 1.1f,   0.05f};
  Grid grid;
  REQUIRE(make_grid(WeightFormat::T2, true, &grid).ok());
  const GroupParams p = rtn_params(grid, w.data(), 16);
  CHECK(p.step == doctest::Approx(0.43125));
  const int expected[] = {1, 0, 1, -1, 0, 1, -1, 0, 0, -1, 1, 1, 0, -1, 1, 0};
  for (int i = 0; i < 16; ++i) CHECK(encode(grid, p, w[size_t(i)]) == expected[i] + 1);
}

TEST_CASE("V4: integer grids") {
  const std::vector<float> w = {0.6f, -1, 0.25f, 0.05f, -0.3f, 0.9f, -0.125f, 0};
  Grid symmetric, asymmetric;
  REQUIRE(make_grid(WeightFormat::W4, true, &symmetric).ok());
  REQUIRE(make_grid(WeightFormat::W4, false, &asymmetric).ok());
  const GroupParams s = rtn_params(symmetric, w.data(), 8), a = rtn_params(asymmetric, w.data(), 8);
  CHECK(s.step == doctest::Approx(1 / 7.0).epsilon(1e-3));  // rounded to f16
  CHECK(a.step == doctest::Approx(0.12666667).epsilon(1e-3));
  CHECK(a.zero == 8);
  const int q[] = {4, -7, 2, 0, -2, 6, -1, 0}, u[] = {13, 0, 10, 8, 6, 15, 7, 8};
  for (int i = 0; i < 8; ++i) {
    CHECK(encode(symmetric, s, w[size_t(i)]) == q[i] + 8);
    CHECK(encode(asymmetric, a, w[size_t(i)]) == u[i]);
  }
}

TEST_CASE("V4: the grids of other tools, whose steps are others, and their bounds") {
  const std::vector<float> w = {0.6f, -1, 0.25f, 0.05f, -0.3f, 0.9f, -0.125f, 0};
  Grid grid;
  REQUIRE(make_grid(WeightFormat::W4, true, &grid).ok());
  const GroupParams compressed{1 / 7.5f, 8}, q4_0{-1 / -8.0f, 8};
  const int q[] = {4, -7, 2, 0, -2, 7, -1, 0}, u[] = {13, 0, 10, 8, 6, 15, 7, 8};
  double worst = 0;
  for (int i = 0; i < 8; ++i) {
    // -1 / s is the tie -7.5, which goes to the even -8 or, s being rounded, to -7.
    const int code = encode(grid, compressed, w[size_t(i)]) - 8;
    CHECK((code == q[i] || (i == 1 && code == -8)));
    CHECK(encode(grid, q4_0, w[size_t(i)]) == u[i]);
    worst = std::max(worst,
                     std::fabs(static_cast<double>(w[size_t(i)]) - decode(compressed, static_cast<uint8_t>(code + 8))));
  }
  CHECK(worst == doctest::Approx(0.5 * compressed.step).epsilon(1e-5));

  // compressed-tensors: amax / 7.5 in f16, at most 0.5037 s. Q4_0: the opposite end clips by a whole step at most.
  double worst_compressed = 0, worst_q4_0 = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    const std::vector<float> values = gaussian(32, seed);
    float largest = 0;
    for (float value : values)
      if (std::fabs(value) > std::fabs(largest)) largest = value;
    const GroupParams a{f16_to_f32(f32_to_f16(std::fabs(largest) / 7.5f)), 8}, b{largest / -8, 8};
    for (float value : values) {
      const auto error = [&](const GroupParams& p) {
        return std::fabs(static_cast<double>(value) - decode(p, encode(grid, p, value))) / std::fabs(p.step);
      };
      worst_compressed = std::max(worst_compressed, error(a));
      worst_q4_0 = std::max(worst_q4_0, error(b));
    }
  }
  CHECK(worst_compressed <= 0.504);
  CHECK(worst_q4_0 <= 1.0 + 1e-6);
  CHECK(worst_q4_0 > 0.5);
}

TEST_CASE("codes round ties to even, whatever the zero point") {
  Grid grid;
  REQUIRE(make_grid(WeightFormat::T2, true, &grid).ok());
  CHECK(encode(grid, {1, 1}, 0.5f) == 1);
  CHECK(encode(grid, {1, 1}, -0.5f) == 1);
  CHECK(encode(grid, {1, 1}, 0.5001f) == 2);
  REQUIRE(make_grid(WeightFormat::W4, false, &grid).ok());
  CHECK(encode(grid, {1, 7}, 2.5f) == 9);
  CHECK(encode(grid, {1, 7}, 3.5f) == 11);
  CHECK(encode(grid, {1, 7}, 1e30f) == 15);
  CHECK(encode(grid, {1, 7}, -1e30f) == 0);
}

TEST_CASE("relative error on Gaussian weights is that of the table in specs/quantization.md 2.1") {
  const auto near = [](double got, double expected) {
    CAPTURE(expected);
    CHECK(got == doctest::Approx(expected).epsilon(0.03));
  };
  const auto rtn = QuantizeMethod::Rtn, mse = QuantizeMethod::Mse;
  const struct {
    WeightFormat format;
    int64_t group;
    double symmetric, asymmetric, searched;
  } rows[] = {{WeightFormat::W8, 128, 0.0065, 0.0059, 0.0065}, {WeightFormat::W4, 32, 0.097, 0.081, 0.086},
              {WeightFormat::W4, 64, 0.107, 0.091, 0.095},     {WeightFormat::W4, 128, 0.117, 0.100, 0.101},
              {WeightFormat::W3, 64, 0.252, 0.195, 0.189},     {WeightFormat::W3, 128, 0.274, 0.216, 0.195},
              {WeightFormat::W2, 32, 0.658, 0.405, 0.372},     {WeightFormat::W2, 64, 0.714, 0.457, 0.379},
              {WeightFormat::W2, 128, 0.766, 0.503, 0.386}};
  for (const auto& row : rows) {
    CAPTURE(weight_format_name(row.format));
    CAPTURE(row.group);
    near(relative_rms(row.format, row.group, true, rtn), row.symmetric);
    near(relative_rms(row.format, row.group, false, rtn), row.asymmetric);
    near(relative_rms(row.format, row.group, true, mse), row.searched);
  }
  near(relative_rms(WeightFormat::T2, 0, true, rtn), 0.513);
  near(relative_rms(WeightFormat::T2, 0, true, mse), 0.4345);
}

TEST_CASE("the scale search is never worse than rounding, group by group, weighted or not") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::vector<float> w = gaussian(64, seed), h = gaussian(64, seed + 100);
    if (seed % 4 == 0) w[seed] *= 30;  // an outlier
    if (seed % 5 == 0) std::fill(w.begin(), w.begin() + 60, 0.0f);
    for (float& value : h) value *= value;
    for (WeightFormat format : kBelowEight) {
      for (bool symmetric : {true, false}) {
        Grid grid;
        if (!make_grid(format, symmetric, &grid).ok()) continue;
        for (const float* weights : {static_cast<const float*>(nullptr), static_cast<const float*>(h.data())}) {
          const GroupParams plain = rtn_params(grid, w.data(), 64), best = search_params(grid, w.data(), weights, 64);
          CHECK(group_error(grid, best, w.data(), weights, 64) <= group_error(grid, plain, w.data(), weights, 64));
        }
      }
    }
  }
}

TEST_CASE("the error of every weight keeps the bound of its format") {
  const std::vector<float> w = gaussian(32 * 128, 3);
  for (WeightFormat format : {WeightFormat::W8, WeightFormat::W4, WeightFormat::W3, WeightFormat::W2}) {
    for (bool symmetric : {true, false}) {
      QuantizeOptions options;
      options.format = format;
      options.symmetric = symmetric;
      options.method = QuantizeMethod::Rtn;
      QuantizedMatrix m;
      run(w, 128, options, nullptr, &m);
      std::vector<float> row(128);
      for (int64_t r = 0; r < m.rows; ++r) {
        dequantize_row(m, r, row.data());
        for (size_t k = 0; k < 128; ++k) {
          // An f16 scale is off by up to 2^-11 of itself, which at 2^b - 1 steps from the zero adds 2^(b-11); and an
          // integer zero point clips up to half a step at one end.
          const double s = m.scales[size_t(r * 2) + k / 64], slack = symmetric ? 0 : 0.5;
          const double codes = format == WeightFormat::W8   ? 255
                               : format == WeightFormat::W4 ? 15
                               : format == WeightFormat::W3 ? 7
                                                            : 3;
          CHECK(std::fabs(row[k] - w[size_t(r) * 128 + k]) <= s * (0.5 + slack + codes / 2048));
        }
      }
    }
  }
}

TEST_CASE("V13: one step of HQQ, and its mean error falls") {
  const std::vector<float> w = {-1, -0.4f, 0.1f, 0.35f, 0.6f, 0.9f, -0.7f, 0.2f};
  Grid grid;
  REQUIRE(make_grid(WeightFormat::W2, false, &grid).ok());
  const auto mean = [&](const GroupParams& p) {
    double sum = 0;
    for (float value : w) sum += std::fabs(value - decode(p, encode(grid, p, value)));
    return sum / 8;
  };
  const GroupParams p0 = hqq_params(grid, w.data(), 8, 0), p1 = hqq_params(grid, w.data(), 8, 1);
  CHECK(1 / p0.step == doctest::Approx(1.57894737).epsilon(1e-3));
  CHECK(p0.zero == doctest::Approx(1.57894737).epsilon(1e-3));
  CHECK(p1.zero == doctest::Approx(1.61513158).epsilon(1e-3));
  CHECK(mean(p0) == doctest::Approx(0.11875).epsilon(2e-3));
  CHECK(mean(p1) == doctest::Approx(0.1171875).epsilon(2e-3));
}
