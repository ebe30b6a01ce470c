#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "prepare/gptq.h"
#include "prepare/quantize.h"

using namespace smoe;

namespace {

std::vector<float> gaussian(int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) value = normal(engine);
  return out;
}

// Correlated activations: x = A z with a random A, so that H is far from diagonal.
OuterSum correlated(int64_t k, int64_t rows, unsigned seed) {
  const std::vector<float> mix = gaussian(k * k, seed, 1 / std::sqrt(static_cast<float>(k)));
  const std::vector<float> z = gaussian(rows * k, seed + 1);
  std::vector<float> x(static_cast<size_t>(rows * k), 0);
  std::vector<const float*> pointers;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) x[size_t(t * k + i)] += mix[size_t(i * k + j)] * z[size_t(t * k + j)];
      x[size_t(t * k + i)] *= 0.2f + static_cast<float>(i % 5);
    }
    pointers.push_back(x.data() + t * k);
  }
  OuterSum sum;
  REQUIRE(sum.resize(k).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, pointers.data(), rows}}, nullptr).ok());
  return sum;
}

QuantizeReport run(const std::vector<float>& w, int64_t cols, const QuantizeOptions& options,
                   const OuterSum* hessian = nullptr, QuantizedMatrix* out = nullptr) {
  QuantizedMatrix matrix;
  QuantizeReport report;
  const auto rows = static_cast<int64_t>(w.size()) / cols;
  const Status status =
      quantize(w.data(), rows, cols, options, hessian, ThreadPool::process(), nullptr, &matrix, &report);
  REQUIRE_MESSAGE(status.ok(), status.message());
  if (out != nullptr) *out = std::move(matrix);
  return report;
}

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

double loss_of(const OuterSum& sum, const std::vector<float>& w, const QuantizedMatrix& m) {
  double loss = 0;
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    dequantize_row(m, r, row.data());
    for (int64_t k = 0; k < m.cols; ++k) row[size_t(k)] = w[size_t(r * m.cols + k)] - row[size_t(k)];
    for (int64_t i = 0; i < m.cols; ++i)
      for (int64_t j = 0; j < m.cols; ++j)
        loss += sum.at(i, j) / static_cast<double>(sum.count) * row[size_t(i)] * row[size_t(j)];
  }
  return loss;
}

const WeightFormat kBelowEight[] = {WeightFormat::W4, WeightFormat::W3, WeightFormat::W2, WeightFormat::W1,
                                    WeightFormat::T2};

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
  near(relative_rms(WeightFormat::W8, 128, true, rtn), 0.0065);
  near(relative_rms(WeightFormat::W8, 128, false, rtn), 0.0059);
  near(relative_rms(WeightFormat::W4, 64, true, rtn), 0.107);
  near(relative_rms(WeightFormat::W4, 64, false, rtn), 0.091);
  near(relative_rms(WeightFormat::W4, 64, true, mse), 0.095);
  near(relative_rms(WeightFormat::W3, 64, true, rtn), 0.252);
  near(relative_rms(WeightFormat::W3, 64, false, rtn), 0.195);
  near(relative_rms(WeightFormat::W3, 64, true, mse), 0.189);
  near(relative_rms(WeightFormat::W2, 64, true, rtn), 0.714);
  near(relative_rms(WeightFormat::W2, 64, false, rtn), 0.457);
  near(relative_rms(WeightFormat::W2, 64, true, mse), 0.379);
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

TEST_CASE("V11: GPTQ by hand") {
  const float x[4][3] = {{1, 0.9f, 0.1f}, {0.5f, 0.4f, -0.3f}, {-0.2f, -0.1f, 0.8f}, {1.5f, 1.4f, 0.2f}};
  const float* rows[] = {x[0], x[1], x[2], x[3]};
  OuterSum sum;
  REQUIRE(sum.resize(3).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, rows, 4}}, nullptr).ok());
  GptqBasis basis;
  REQUIRE(make_gptq_basis(sum, 0.01, false, &basis).ok());
  // The vector's H is twice ours, so its U is ours over sqrt(2).
  const float expected[] = {6.02782f, -6.58919f, 0.7183f, 0, 0.82644f, -0.1747f, 0, 0, 1.577f};
  for (size_t i = 0; i < 9; ++i) CHECK(basis.factor[i] / std::sqrt(2.0f) == doctest::Approx(expected[i]).epsilon(1e-3));

  // s = 0.3 is given: a grid whose search cannot move it, because the one group is scaled beforehand.
  Grid grid;
  REQUIRE(make_grid(WeightFormat::W2, true, &grid).ok());
  const float w[] = {0.8f, -0.35f, 0.6f};
  const GroupParams p{0.3f, 2};
  float left[] = {w[0], w[1], w[2]}, error[3];
  int codes[3];
  for (int k = 0; k < 3; ++k) {
    codes[k] = encode(grid, p, left[k]) - 2;
    error[k] = w[k] - decode(p, encode(grid, p, left[k]));
    const float e = (left[k] - decode(p, encode(grid, p, left[k]))) / basis.factor[size_t(4 * k)];
    for (int j = k + 1; j < 3; ++j) left[j] -= e * basis.factor[size_t(3 * k + j)];
  }
  CHECK(codes[0] == 1);
  CHECK(codes[1] == 1);
  CHECK(codes[2] == 1);
  CHECK(encode(grid, p, w[1]) - 2 == -1);  // plain rounding
  double output = 0;
  for (const auto& row : x) {
    double y = 0;
    for (int k = 0; k < 3; ++k) y += error[k] * row[k];
    output += y * y;
  }
  CHECK(output == doctest::Approx(0.06505).epsilon(1e-3));
}

TEST_CASE("GPTQ loses less than the scale search, and that less than rounding, on the calibration data") {
  const int64_t k = 128;
  const OuterSum sum = correlated(k, 400, 11);
  const std::vector<float> w = gaussian(24 * k, 12);
  for (WeightFormat format : kBelowEight) {
    CAPTURE(weight_format_name(format));
    QuantizeOptions options;
    options.format = format;
    if (format == WeightFormat::T2) options.group = 0;
    QuantizedMatrix rtn, mse, plain, order, full;
    options.method = QuantizeMethod::Rtn;
    run(w, k, options, &sum, &rtn);
    options.method = QuantizeMethod::Mse;
    run(w, k, options, &sum, &mse);
    options.method = QuantizeMethod::Gptq;
    const QuantizeReport report = run(w, k, options, &sum, &full);
    options.sweeps = 0;
    run(w, k, options, &sum, &plain);
    options.act_order = true;
    run(w, k, options, &sum, &order);
    CHECK(loss_of(sum, w, full) < 0.8 * loss_of(sum, w, mse));
    CHECK(loss_of(sum, w, full) <= loss_of(sum, w, plain) * 1.001);
    CHECK(loss_of(sum, w, plain) < loss_of(sum, w, rtn));
    CHECK(loss_of(sum, w, order) < loss_of(sum, w, rtn));
    CHECK(report.loss >= loss_of(sum, w, full) * 0.999);  // damping adds to it
  }
}

TEST_CASE("GPTQ does not depend on the number of threads, nor calibration on how its rows are cut") {
  const int64_t k = 96;
  const std::vector<float> x = gaussian(101 * k, 5), w = gaussian(40 * k, 6);
  std::vector<const float*> rows;
  for (int64_t t = 0; t < 101; ++t) rows.push_back(x.data() + t * k);
  ThreadPool one(1);
  OuterSum whole, parts;
  REQUIRE(whole.resize(k).ok());
  REQUIRE(parts.resize(k).ok());
  REQUIRE(accumulate(one, {{&whole, rows.data(), 101}}, nullptr).ok());
  for (int64_t first : {0, 7, 50}) {
    const int64_t last = first == 0 ? 7 : first == 7 ? 50 : 101;
    REQUIRE(accumulate(ThreadPool::process(), {{&parts, rows.data() + first, last - first}}, nullptr).ok());
  }
  CHECK(whole.lower == parts.lower);
  CHECK(whole.count == parts.count);
  QuantizeOptions options;
  options.group = 32;
  options.method = QuantizeMethod::Gptq;
  QuantizedMatrix a, b;
  REQUIRE(quantize(w.data(), 40, k, options, &whole, one, nullptr, &a, nullptr).ok());
  REQUIRE(quantize(w.data(), 40, k, options, &whole, ThreadPool::process(), nullptr, &b, nullptr).ok());
  CHECK(a.codes == b.codes);
  CHECK(a.scales == b.scales);
}

TEST_CASE("GPTQ with few rows, dead columns and equal columns stays finite") {
  const int64_t k = 64;
  std::vector<float> x = gaussian(3 * k, 8), w = gaussian(5 * k, 9);
  for (size_t t = 0; t < 3; ++t) {
    for (size_t i = 0; i < 8; ++i) x[t * 64 + i] = 0;                // never active
    for (size_t i = 8; i < 16; ++i) x[t * 64 + i] = x[t * 64 + 20];  // the same input nine times over
  }
  const float* rows[] = {x.data(), x.data() + 64, x.data() + 128};
  OuterSum sum;
  REQUIRE(sum.resize(k).ok());
  REQUIRE(accumulate(ThreadPool::process(), {{&sum, rows, 3}}, nullptr).ok());
  QuantizeOptions options;
  options.method = QuantizeMethod::Gptq;
  QuantizedMatrix m;
  const QuantizeReport report = run(w, k, options, &sum, &m);
  CHECK(report.dead_columns == 8);
  CHECK(report.damping >= 0.01);
  CHECK(std::isfinite(report.loss));
  // Dead columns are rounded, not zeroed.
  std::vector<float> row(64);
  dequantize_row(m, 0, row.data());
  double alive = 0;
  for (size_t i = 0; i < 8; ++i) alive += std::fabs(row[i]);
  CHECK(alive > 0);
}

TEST_CASE("V10: nested planes") {
  const std::vector<float> w = {-1, -0.4f, 0.1f, 0.35f, 0.6f, 0.9f, -0.7f, 0.2f};
  QuantizeOptions options;
  options.format = WeightFormat::WN;
  options.group = 8;
  options.symmetric = false;
  options.method = QuantizeMethod::Rtn;
  const double expected[] = {0.0415625, 0.0087109, 0.0013257};
  QuantizedMatrix m;
  for (int planes = 0; planes < 3; ++planes) {
    options.planes = planes;
    CHECK(run(w, 8, options, nullptr, &m).squared_error / 8 == doctest::Approx(expected[planes]).epsilon(2e-3));
  }
  CHECK(m.zeros[0] == 2);
  const uint8_t codes[] = {0, 1, 2, 3, 3, 3, 1, 2}, third[] = {1, 1, 1, 0, 0, 1, 0, 1},
                fourth[] = {1, 1, 0, 0, 1, 1, 1, 1};
  for (size_t i = 0; i < 8; ++i) {
    CHECK(m.codes[i] == codes[i]);
    CHECK(m.planes[0].bits[i] == third[i]);
    CHECK(m.planes[1].bits[i] == fourth[i]);
  }
  CHECK(m.planes[0].scales[0] == doctest::Approx(0.18125).epsilon(1e-3));
  CHECK(m.planes[1].scales[0] == doctest::Approx(0.0859375).epsilon(1e-3));
}

TEST_CASE("every plane of a nested matrix lowers the error") {
  const std::vector<float> w = gaussian(16 * 256, 21);
  QuantizeOptions options;
  options.format = WeightFormat::WN;
  options.group = 128;
  options.symmetric = false;
  double before = 1e30;
  for (int planes = 0; planes < 6; ++planes) {
    options.planes = planes;
    const double now = run(w, 256, options).squared_error;
    CHECK(now < before);
    before = now;
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

TEST_CASE("scales of zero, tiny and huge weights stay usable") {
  for (float scale : {0.0f, 1e-30f, 1e-12f, 1e-6f, 1e4f, 1e9f, 1e30f}) {
    CAPTURE(scale);
    const std::vector<float> w = gaussian(4 * 64, 31, scale > 0 ? scale : 1);
    std::vector<float> values = w;
    if (scale == 0) std::fill(values.begin(), values.end(), 0.0f);
    for (WeightFormat format : kBelowEight) {
      QuantizeOptions options;
      options.format = format;
      const QuantizeReport report = run(values, 64, options);
      if (scale == 0 && format != WeightFormat::W1) CHECK(report.squared_error == 0);
      if (scale > 0) CHECK(report.squared_error < 0.6 * report.squared_weight);
    }
  }
}

TEST_CASE("what cannot be quantized is refused") {
  std::vector<float> w(128, 1.0f);
  QuantizedMatrix m;
  const auto code = [&](const QuantizeOptions& options, const OuterSum* hessian = nullptr) {
    return quantize(w.data(), 2, 64, options, hessian, ThreadPool::process(), nullptr, &m, nullptr).code();
  };
  QuantizeOptions options;
  options.group = 48;
  CHECK(code(options) == Code::InvalidArgument);
  options.group = 64;
  options.method = QuantizeMethod::Gptq;
  CHECK(code(options) == Code::InvalidArgument);
  OuterSum sum;
  REQUIRE(sum.resize(32).ok());
  CHECK(code(options, &sum) == Code::ShapeMismatch);
  options.method = QuantizeMethod::Hqq;
  CHECK(code(options) == Code::InvalidArgument);
  options.method = QuantizeMethod::Mse;
  options.format = WeightFormat::T2;
  options.symmetric = false;
  CHECK(code(options) == Code::InvalidArgument);
  options = QuantizeOptions();
  w[77] = NAN;
  CHECK(code(options) == Code::NonFiniteInput);
  w[77] = 1;
  CancelFlag flag;
  flag.set = true;
  CHECK(quantize(w.data(), 2, 64, options, nullptr, ThreadPool::process(), &flag, &m, nullptr).code() ==
        Code::Cancelled);
  const float bad[] = {1, INFINITY};
  const float* rows[] = {bad};
  REQUIRE(sum.resize(2).ok());
  CHECK(accumulate(ThreadPool::process(), {{&sum, rows, 1}}, nullptr).code() == Code::NonFiniteInput);
  CHECK(sum.count == 0);
}
