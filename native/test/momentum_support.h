// One token's way up the depth through the kernels of a backend, for the tests of momentum.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "backend.h"
#include "layer/momentum.h"
#include "ops_support.h"

namespace smoe_test {

using namespace smoe;

using Row = std::vector<float>;

// The states of one token, full of NaN before the first layer: whatever reads them then shows.
struct States {
  Row m, m_im, p, v;
  explicit States(size_t h) : m(h, NAN), m_im(m), p(m), v(m) {}
  ResidualState pointers() { return {m.data(), m_im.data(), p.data(), v.data()}; }
};

inline Row step(Backend& backend, const MomentumSpec& spec, int layer, const Row& x, const Row& y, States* states) {
  Row out;
  backend.residual(residual_step(spec, layer), states->pointers(), x, y, &out);
  return out;
}

inline Row norm(const Row& x, float eps) {
  Row out(x.size());
  kernels()->layer_norm(x.data(), nullptr, nullptr, eps, static_cast<int64_t>(x.size()), out.data());
  return out;
}

inline Row sum(const Row& x, const Row& y) {
  Row out(x.size());
  kernels()->add(x.data(), y.data(), static_cast<int64_t>(x.size()), out.data());
  return out;
}

inline Row look_ahead(const MomentumSpec& spec, int layer, Row u, const States& states) {
  const float c = lookahead(spec, layer);
  if (c != 0) kernels()->axpy(c, states.m.data(), static_cast<int64_t>(u.size()), u.data());
  return u;
}

inline Row times(const Row& x, const Row& factor) {
  Row out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * factor[i]);
  return out;
}

inline void check_row(const Row& actual, const std::vector<double>& expected, double tolerance) {
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) CHECK(std::fabs(actual[i] - expected[i]) <= tolerance);
}

inline MomentumSpec heavy_ball(double mu, double gamma) {
  MomentumSpec spec = default_spec(MomentumType::HeavyBall);
  spec.mu = mu;
  spec.gamma = gamma;
  return spec;
}

// Three layers without norms: at most six roundings each (inputs and coefficients included) of values up to 2.
constexpr double kPlain = 18 * kU * 2;
// Three sub-blocks with two norms each: about 25 roundings per layer, of normed values below 2 (z up to 6.4 is divided
// by its deviation).
constexpr double kNormed = 75 * kU * 2;

}  // namespace smoe_test
