#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>

#include "core/dtype.h"
#include "kernels/norm/reference.h"
#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

const int64_t kSizes[] = {1, 3, 15, 16, 17, 63, 64, 65, 100, 128, 2048, 4095, 8192};

std::vector<float> shifted(Random& random, int64_t n, float mean, float scale) {
  std::vector<float> out = random.row(n, scale);
  for (float& value : out) value += mean;
  return out;
}

}  // namespace

TEST_CASE("rms_norm against the reference, in place as well") {
  Random random(1);
  for (int64_t h : kSizes) {
    Guarded<float> x(random.row(h, 3)), w(random.row(h));
    for (const float* weight : {static_cast<const float*>(nullptr), static_cast<const float*>(w.data())}) {
      const std::vector<double> expected = reference::rms_norm(x.data(), weight, 1e-6, h);
      Guarded<float> out(h, -1.0f);
      kernels()->rms_norm(x.data(), weight, 1e-6f, h, out.data());
      // h/64 + 8 additions in the sum (twice the roundings where multiply-add is not fused), halved by the root, then
      // division by h, eps, root, reciprocal and two products
      const double tolerance = ((h / 64.0 + 12) / 2 + 7) * kU;
      for (int64_t i = 0; i < h; ++i) CHECK(std::fabs(out[i] - expected[i]) <= tolerance * std::fabs(expected[i]));
      Guarded<float> same(x.copy());
      kernels()->rms_norm(same.data(), weight, 1e-6f, h, same.data());
      CHECK(same_bits(same.copy(), out.copy()));
    }
  }
}

TEST_CASE("layer_norm against the reference, with means far above the deviation") {
  Random random(2);
  for (int64_t h : kSizes) {
    for (float mean : {0.0f, 1.0f, 1000.0f}) {
      Guarded<float> x(shifted(random, h, mean, 1)), w(random.row(h)), b(random.row(h));
      const double eps = 1e-5;
      const std::vector<double> plain = reference::layer_norm(x.data(), nullptr, nullptr, eps, h);
      const std::vector<double> expected = reference::layer_norm(x.data(), w.data(), b.data(), eps, h);
      Guarded<float> out(h, -1.0f);
      kernels()->layer_norm(x.data(), w.data(), b.data(), 1e-5f, h, out.data());
      // With d = x - mean rounded: d costs u*|z|; the correction of the mean (h/64+10)u of the mean |d|, about 1; the
      // factor ((h/64+12)/2+6)u of |z|. delta itself is (h/64+8)u*|mean|, and its square is taken from the variance.
      // A single element, or a row that is almost constant, has no deviation to be relative to: eps bounds it.
      const double terms = h / 64.0 + 16;
      for (int64_t i = 0; i < h; ++i) {
        const double tolerance = terms * kU * (1 + std::fabs(plain[i])) * std::fabs(w[i]) + 2 * kU * std::fabs(b[i]) +
                                 2 * kU * std::fabs(expected[i]);
        CHECK(std::fabs(out[i] - expected[i]) <= tolerance);
      }
      Guarded<float> same(x.copy());
      kernels()->layer_norm(same.data(), w.data(), b.data(), 1e-5f, h, same.data());
      CHECK(same_bits(same.copy(), out.copy()));
    }
  }
}

TEST_CASE("momentum vector V1") {
  const float x[4] = {1, 2, 3, 4};
  float out[4];
  kernels()->layer_norm(x, nullptr, nullptr, 1e-5f, 4, out);
  const double at_1e5[] = {-1.3416354199689269, -0.447211806656309, 0.447211806656309, 1.3416354199689269};
  for (int i = 0; i < 4; ++i) CHECK(std::fabs(out[i] - at_1e5[i]) <= 8 * kU * 2);
  kernels()->layer_norm(x, nullptr, nullptr, 1e-6f, 4, out);
  const double at_1e6[] = {-1.3416402498438813, -0.44721341661462705, 0.44721341661462705, 1.3416402498438813};
  for (int i = 0; i < 4; ++i) CHECK(std::fabs(out[i] - at_1e6[i]) <= 8 * kU * 2);
}

TEST_CASE("norms of rows at the ends of the range give no NaN") {
  for (int64_t h : {1, 16, 100}) {
    std::vector<float> out(h);
    for (float value : {0.0f, FLT_MAX, -FLT_MAX, 1e20f, 1e-30f, FLT_TRUE_MIN}) {
      std::vector<float> x(h, value);
      if (h > 1) x[0] = -value;
      for (float eps : {0.0f, 1e-6f}) {
        kernels()->rms_norm(x.data(), nullptr, eps, h, out.data());
        for (float y : out) CHECK(std::isfinite(y));
        if (std::fabs(value) >= 1e20f) CHECK(std::fabs(out[0]) == doctest::Approx(1).epsilon(1e-6));
        kernels()->layer_norm(x.data(), nullptr, nullptr, eps, h, out.data());
        for (float y : out) CHECK(std::isfinite(y));
      }
    }
  }
}

TEST_CASE("add, rotate and round_bf16") {
  Random random(3);
  for (int64_t h : kSizes) {
    Guarded<float> x(random.row(h)), y(random.row(h)), out(h, -1.0f);
    kernels()->add(x.data(), y.data(), h, out.data());
    for (int64_t i = 0; i < h; ++i) CHECK(out[i] == x[i] + y[i]);

    Guarded<float> rounded(x.copy());
    kernels()->round_bf16(rounded.data(), h);
    for (int64_t i = 0; i < h; ++i) CHECK(rounded[i] == bf16_to_f32(f32_to_bf16(x[i])));
  }
  for (int64_t dim : {2, 4, 30, 32, 34, 64, 128}) {
    Guarded<float> head(random.row(dim)), cos(random.row(dim / 2)), sin(random.row(dim / 2));
    const std::vector<double> expected = reference::rotate(head.data(), cos.data(), sin.data(), dim);
    const std::vector<float> before = head.copy();
    kernels()->rotate(head.data(), cos.data(), sin.data(), dim);
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t j = i % (dim / 2);
      const double magnitude = std::fabs(before[j]) + std::fabs(before[j + dim / 2]);
      CHECK(std::fabs(head[i] - expected[i]) <= 2 * kU * magnitude * (std::fabs(cos[j]) + std::fabs(sin[j])));
    }
  }
}
