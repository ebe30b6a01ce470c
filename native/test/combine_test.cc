#include <doctest/doctest.h>

#include <cmath>

#include "kernels/combine/reference.h"
#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

ResidualStep random_step(Random& random, ResidualKind kind) {
  ResidualStep step;
  step.kind = kind;
  step.a = random.uniform(-0.9f, 0.9f);
  step.a_im = random.uniform(-0.5f, 0.5f);
  step.b = random.uniform(-1.5f, 1.5f);
  step.s = random.below(2) ? 1.0f : -0.8f;
  step.gamma1 = 0.8f;
  step.kappa = random.below(2) ? 1.0f : 0.1f;
  step.first = random.below(2);
  step.first_adam = random.below(2);
  return step;
}

struct Token {
  std::vector<float> residual, m, m_im, p, v;
};

Token random_token(Random& random, int64_t h) {
  Token token{random.row(h, 3), random.row(h), random.row(h), random.row(h, 0.1f), random.row(h, 0.1f)};
  for (float& v : token.v) v *= v;
  return token;
}

// What k_combine writes: out, update and the states.
struct Result {
  std::vector<float> out, update;
  Token state;
};

Result combine(const std::vector<const float*>& rows, const std::vector<float>& weight, const float* shared,
               float shared_scale, const ResidualStep& step, const Token& token) {
  const size_t h = token.residual.size();
  Guarded<float> residual(token.residual), m(token.m), m_im(token.m_im), p(token.p), v(token.v);
  Guarded<float> out(h, NAN), update(h, NAN);
  const ResidualState state{m.data(), m_im.data(), p.data(), v.data()};
  kernels()->combine(rows.data(), weight.data(), static_cast<int>(rows.size()), shared, shared_scale, residual.data(),
                     &step, &state, static_cast<int64_t>(h), out.data(), update.data());
  Guarded<float> m2(token.m), m_im2(token.m_im), p2(token.p), v2(token.v), in_place(token.residual);
  const ResidualState again{m2.data(), m_im2.data(), p2.data(), v2.data()};
  kernels()->combine(rows.data(), weight.data(), static_cast<int>(rows.size()), shared, shared_scale, in_place.data(),
                     &step, &again, static_cast<int64_t>(h), in_place.data(), nullptr);
  CHECK(same_bits(out.copy(), in_place.copy()));  // out may alias residual
  CHECK(same_bits(m.copy(), m2.copy()));
  return {out.copy(), update.copy(), {residual.copy(), m.copy(), m_im.copy(), p.copy(), v.copy()}};
}

const ResidualKind kKinds[] = {ResidualKind::Update, ResidualKind::Add, ResidualKind::Linear, ResidualKind::Complex,
                               ResidualKind::Adam};

}  // namespace

TEST_CASE("combine and every residual step against the reference") {
  Random random(21);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t h = 1 + random.below(70);
    const int slots = random.below(9);
    const ResidualStep step = random_step(random, kKinds[trial % 5]);
    const Token token = random_token(random, h);
    std::vector<std::vector<float>> data;
    std::vector<const float*> rows;
    for (int j = 0; j < slots; ++j) data.push_back(random.row(h));
    for (int j = 0; j < slots; ++j) rows.push_back(random.below(5) == 0 ? nullptr : data[j].data());
    const std::vector<float> weight = random.row(slots), shared = random.row(h);
    const float* const used = random.below(2) ? shared.data() : nullptr;
    const Result result = combine(rows, weight, used, 0.7f, step, token);

    for (int64_t i = 0; i < h; ++i) {
      double magnitude;
      const double y = reference::combine(rows.data(), weight.data(), slots, used, 0.7f, i, &magnitude);
      // one product and one sum per slot and for the shared row
      CHECK(std::fabs(result.update[i] - y) <= 2 * (slots + 2) * kU * magnitude);

      // the step from the kernel's own y, so that only its own roundings are left
      reference::ElementState state{token.m[i], token.m_im[i], token.p[i], token.v[i]};
      const double x = token.residual[i], y32 = result.update[i];
      const double terms = std::fabs(step.a * token.m[i]) + std::fabs(step.a_im * token.m_im[i]) +
                           std::fabs(step.a_im * token.m[i]) + std::fabs(step.a * token.m_im[i]) +
                           std::fabs(step.b * y32);
      const double expected = reference::residual(step, x, y32, &state);
      const double adam_terms = std::fabs(step.beta1 * token.p[i]) + std::fabs(step.rest1 * y32);
      // m: at most five roundings of its terms; p: three; v is a sum of positive terms, five roundings, halved by the
      // root; then root, quotient and two products; x: one product, one sum
      double tolerance = 2 * kU * (std::fabs(x) + std::fabs(expected));
      if (step.kind == ResidualKind::Linear || step.kind == ResidualKind::Complex) tolerance += 5 * kU * terms;
      if (step.kind == ResidualKind::Adam) {
        const double root = std::sqrt(state.v + step.eps);
        tolerance += step.gamma1 * (3 * kU * adam_terms + 8 * kU * std::fabs(state.p)) / root;
        CHECK(std::fabs(result.state.p[i] - state.p) <= 3 * kU * adam_terms);
        CHECK(std::fabs(result.state.v[i] - state.v) <= 5 * kU * state.v);
      }
      CHECK(std::fabs(result.out[i] - expected) <= tolerance);
      if (step.kind == ResidualKind::Complex) CHECK(std::fabs(result.state.m_im[i] - state.m_im) <= 5 * kU * terms);
      if (step.kind >= ResidualKind::Linear) {
        CHECK(std::fabs(result.state.m[i] - state.m) <= 5 * kU * terms);
      } else {
        CHECK(result.state.m[i] == token.m[i]);
      }
    }
  }
}

TEST_CASE("first layer: states full of NaN change nothing") {
  Random random(22);
  for (ResidualKind kind : kKinds) {
    for (int64_t h : {1, 16, 40}) {
      ResidualStep step = random_step(random, kind);
      step.first = step.first_adam = true;
      const std::vector<float> row = random.row(h);
      Token clean = random_token(random, h), poisoned = clean;
      poisoned.m = poisoned.m_im = poisoned.p = poisoned.v = std::vector<float>(h, NAN);
      clean.m = clean.m_im = clean.p = clean.v = std::vector<float>(h, 0.0f);
      const Result a = combine({row.data()}, {1.0f}, nullptr, 0, step, clean);
      const Result b = combine({row.data()}, {1.0f}, nullptr, 0, step, poisoned);
      CHECK(same_bits(a.out, b.out));
      if (kind >= ResidualKind::Linear) CHECK(same_bits(a.state.m, b.state.m));
      if (kind == ResidualKind::Complex) CHECK(same_bits(a.state.m_im, b.state.m_im));
      if (kind == ResidualKind::Adam) CHECK(same_bits(a.state.p, b.state.p));
      if (kind == ResidualKind::Adam) CHECK(same_bits(a.state.v, b.state.v));
    }
  }
}

TEST_CASE("unused pointers may be null") {
  Random random(23);
  const int64_t h = 21;
  const std::vector<float> row = random.row(h);
  const float* const rows[] = {row.data()};
  const float weight[] = {1.0f};
  const ResidualState none;
  ResidualStep step;
  std::vector<float> out(h, NAN);
  kernels()->combine(rows, weight, 1, nullptr, 0, nullptr, &step, &none, h, out.data(), nullptr);
  CHECK(same_bits(out, row));
  step.kind = ResidualKind::Adam;  // kappa = 1: the residual cancels; in the first Adam layer p and v need not be kept
  kernels()->combine(rows, weight, 1, nullptr, 0, nullptr, &step, &none, h, out.data(), nullptr);
  for (int64_t i = 0; i < h; ++i) {
    const double y = row[i];
    CHECK(out[i] == doctest::Approx(0.1 * y / std::sqrt(0.001 * y * y + 1e-8)).epsilon(1e-6));
  }
  kernels()->combine(nullptr, nullptr, 0, nullptr, 0, nullptr, &step, &none, h, out.data(), nullptr);
  for (float value : out) CHECK(value == 0);  // a token without experts: y = 0
}

TEST_CASE("axpy") {
  Random random(24);
  for (int64_t h : {1, 15, 16, 33}) {
    Guarded<float> m(random.row(h)), u(random.row(h));
    const std::vector<float> before = u.copy();
    kernels()->axpy(0.04f, m.data(), h, u.data());
    for (int64_t i = 0; i < h; ++i) {
      const double term = static_cast<double>(0.04f) * m[i];
      CHECK(std::fabs(u[i] - (before[i] + term)) <= 2 * kU * (std::fabs(before[i]) + std::fabs(term)));
    }
  }
}
