// What holds for every method, and bit-nested matrices.
#include "prepare/quantize.h"

#include "prepare_support.h"

using namespace smoe;
using namespace smoe_test;

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

TEST_CASE("codebooks are rounded to nearest with their own groups") {
  const std::vector<float> w = gaussian(8 * 64, 41);
  const int64_t groups[] = {32, 16, 32};
  double errors[3];
  for (int codebook = 0; codebook < 3; ++codebook) {
    QuantizeOptions options;
    options.format = WeightFormat::W4C;
    options.group = 0;
    options.method = QuantizeMethod::Rtn;
    options.codebook = codebook;
    QuantizedMatrix m;
    const QuantizeReport report = run(w, 64, options, nullptr, &m);
    CHECK(m.codebook == codebook);
    CHECK(m.group == groups[codebook]);
    errors[codebook] = std::sqrt(report.squared_error / report.squared_weight);
    options.method = QuantizeMethod::Mse;
    CHECK(quantize(w.data(), 8, 64, options, nullptr, ThreadPool::process(), nullptr, &m, nullptr).code() ==
          Code::InvalidArgument);
  }
  CHECK(errors[0] == doctest::Approx(0.112).epsilon(0.05));  // specs/quantization.md 2.1
  CHECK(errors[1] < errors[0]);                              // a finer scale, twice as often
  CHECK(errors[2] < errors[0]);                              // values made for Gaussian weights
  QuantizeOptions other;
  other.codebook = 1;
  QuantizedMatrix m;
  CHECK(quantize(w.data(), 8, 64, other, nullptr, ThreadPool::process(), nullptr, &m, nullptr).code() ==
        Code::InvalidArgument);
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
