// The functions of isa/math-inl.h: directly for the portable vectors, and under the active instruction set through the
// kernels that consist of little else.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

// clang-format off: the vector type comes first
#include "kernels/isa/vec_portable.h"
#include "kernels/isa/math-inl.h"
// clang-format on
#include "kernels/experts/reference.h"
#include "kernels/kernel_table.h"

using namespace smoe;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double ulp(double value) {
  int exponent;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Runs f on every `step`-th float between two finite bounds of the same sign, 16 at a time.
template <class F>
void for_floats(float from, float to, uint32_t step, F&& f) {
  uint32_t low = v_to_bits(from), high = v_to_bits(to);
  if (low > high) std::swap(low, high);
  float lanes[16];
  int filled = 0;
  for (uint64_t bits = low; bits <= high; bits += step) {
    lanes[filled++] = v_from_bits(static_cast<uint32_t>(bits));
    if (filled == 16) {
      f(lanes);
      filled = 0;
    }
  }
}

float activate_one(Activation act, float x) {
  float tile[kOutStride] = {x}, out = 0;
  kernels()->mlp(tile, nullptr, act, 1, 1, 0, &out, UnitForm::F32, 0);
  return out;
}

}  // namespace

TEST_CASE("exp is within 2 ulp over its whole range") {
  double worst = 0;
  const auto check = [&](const float* lanes) {
    const V y = v_exp(v_load(lanes));
    for (int i = 0; i < 16; ++i) {
      const double exact = std::exp(static_cast<double>(lanes[i]));
      worst = std::max(worst, std::fabs(y.l[i] - exact) / ulp(exact));
    }
  };
  for_floats(1e-8f, 88.3f, 997, check);
  for_floats(-1e-8f, -87.3f, 997, check);
  INFO("worst error in ulp: " << worst);
  CHECK(worst <= 2.0);
  CHECK(v_exp(v_set(0.0f)).l[0] == 1.0f);
  CHECK(v_exp(v_set(-kInf)).l[0] < 1.3e-38f);
  CHECK(std::isfinite(v_exp(v_set(kInf)).l[0]));
  CHECK(std::isnan(v_exp(v_set(kNan)).l[0]));
}

TEST_CASE("erf is within 2e-7 and tanh within 4e-7") {
  double worst_erf = 0, worst_tanh = 0;
  for (float x = -10; x < 10; x += 1.0f / 4096) {
    worst_erf = std::max(worst_erf, std::fabs(v_erf(v_set(x)).l[0] - std::erf(static_cast<double>(x))));
    worst_tanh = std::max(worst_tanh, std::fabs(v_tanh(v_set(x)).l[0] - std::tanh(static_cast<double>(x))));
  }
  INFO("worst erf " << worst_erf << ", tanh " << worst_tanh);
  // erf: 1.5e-7 of the approximation and 4 roundings near 1. tanh: twice sigmoid's 2 roundings and the last
  // subtraction.
  CHECK(worst_erf <= 4e-7);
  CHECK(worst_tanh <= 4e-7);
  CHECK(v_erf(v_set(kInf)).l[0] == 1.0f);
  CHECK(v_erf(v_set(-kInf)).l[0] == -1.0f);
}

TEST_CASE("gelu keeps its relative accuracy in the tails") {
  double worst_erf = 0, worst_tanh = 0;
  for (float x = -6; x < 6; x += 1.0f / 1024) {
    const double erf_exact = reference::activate(Activation::GeluErf, x);
    const double tanh_exact = reference::activate(Activation::GeluTanh, x);
    if (x == 0) continue;
    // The argument of the exponential has a relative error of a few 2^-24, which the exponential multiplies by its
    // size: x^2/2 for erf, 2 u for tanh.
    const double erf_scale = std::fabs(erf_exact) * (4 + x * x / 2) / (1 << 24);
    const double u = 0.8 * (std::fabs(x) + 0.0448 * std::fabs(x * x * x));
    const double tanh_scale = std::fabs(tanh_exact) * (4 + 2 * u) / (1 << 24);
    worst_erf = std::max(worst_erf, std::fabs(activate_one(Activation::GeluErf, x) - erf_exact) / erf_scale);
    worst_tanh = std::max(worst_tanh, std::fabs(activate_one(Activation::GeluTanh, x) - tanh_exact) / tanh_scale);
  }
  INFO("worst erf " << worst_erf << ", tanh " << worst_tanh << " of the scale");
  CHECK(worst_erf <= 4.0);
  CHECK(worst_tanh <= 4.0);
}

TEST_CASE("sigmoid under the active instruction set, which shows its exp") {
  double worst = 0;
  const auto check = [&](const float* lanes) {
    float out[16];
    kernels()->sigmoid(lanes, 16, out);
    for (int i = 0; i < 16; ++i) {
      const double exact = 1 / (1 + std::exp(-static_cast<double>(lanes[i])));
      worst = std::max(worst, std::fabs(out[i] - exact) / ulp(exact));
    }
  };
  for_floats(1e-8f, 87.0f, 9973, check);
  for_floats(-1e-8f, -87.0f, 9973, check);
  INFO("worst error in ulp: " << worst);
  // exp 2 ulp, the addition and the division half an ulp each, all relative; an ulp of the result can be half as
  // large, relative to it, as an ulp of an intermediate value.
  CHECK(worst <= 6.0);
}

TEST_CASE("activations: NaN stays NaN, and nothing finite becomes NaN") {
  for (int act = 0; act <= static_cast<int>(Activation::Identity); ++act) {
    CAPTURE(act);
    CHECK(std::isnan(activate_one(static_cast<Activation>(act), kNan)));
    CHECK(activate_one(static_cast<Activation>(act), 0.0f) == 0.0f);  // padding columns rely on it
    for (float x : {1e-38f, 1.0f, 50.0f, 90.0f, 1e10f, 1e20f, 3e38f}) {
      CHECK_FALSE(std::isnan(activate_one(static_cast<Activation>(act), x)));
      CHECK_FALSE(std::isnan(activate_one(static_cast<Activation>(act), -x)));
    }
  }
}
