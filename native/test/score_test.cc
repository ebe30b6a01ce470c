#include <doctest/doctest.h>

#include <cmath>

#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

TEST_CASE("score kernels against double precision") {
  Random random(47);
  for (int64_t n : {1, 5, 15, 16, 17, 64, 100, 257, 5000}) {
    for (float size : {1.0f, 10.0f, 60.0f}) {
      Guarded<float> x(random.row(n, size)), out(n, NAN);
      double top = -INFINITY, sum = 0, error = 0;
      for (int64_t i = 0; i < n; ++i) top = std::fmax(top, x[i]);
      for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
      // rounding x - max is relative to its size; error is its mean under the softmax itself
      for (int64_t i = 0; i < n; ++i) error += std::exp(x[i] - top) / sum * (top - x[i] + 8) * kU;
      kernels()->softmax(x.data(), n, out.data());
      for (int64_t i = 0; i < n; ++i) {
        const double expected = std::exp(x[i] - top) / sum;
        CHECK(std::fabs(out[i] - expected) <=
              expected * ((top - x[i] + 8) * kU + error + (n / 16.0 + 9) * kU) + 1.3e-38);
      }
      // the clamp at e^88.3 bounds small sigmoids from below; a difference of that size is invisible
      kernels()->sigmoid(x.data(), n, out.data());
      for (int64_t i = 0; i < n; ++i) {
        const double expected = 1 / (1 + std::exp(-static_cast<double>(x[i])));
        CHECK(std::fabs(out[i] - expected) <= expected * 10 * kU + 1.3e-38);
      }
      const double lse = top + std::log(sum);
      CHECK(std::fabs(kernels()->log_sum_exp(x.data(), n) - lse) <= error + 1e-14 * std::fabs(lse));
    }
  }
  std::vector<float> bad(20, 1.0f);
  bad[3] = NAN;
  CHECK(std::isnan(kernels()->log_sum_exp(bad.data(), 20)));
}
