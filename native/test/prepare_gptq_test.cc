#include "prepare/gptq.h"

#include "prepare_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

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

}  // namespace

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
