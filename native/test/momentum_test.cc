// Properties of the momentum variants, and which specs are refused.
#include <doctest/doctest.h>

#include <cmath>

#include "momentum_reference.h"
#include "momentum_support.h"

using namespace smoe;
using namespace smoe_test;

BACKEND_TEST_CASE("every variant over many layers against its recurrence in double precision") {
  Random random(51);
  const int trials = static_cast<int>(backend.repetitions(120));
  for (int trial = 0; trial < trials; ++trial) {
    MomentumSpec spec = default_spec(MomentumType(trial % 6));
    const int layers = 12;
    if (spec.type != MomentumType::Robust) {
      spec.mu = random.uniform(-0.8f, 0.9f);
      spec.gamma = random.uniform(0.3f, 1.5f);
      spec.kappa = random.uniform(0, 1);
    }
    if (random.below(3) == 0) {
      for (int l = 0; l < layers; ++l) spec.mu_layers.push_back(random.uniform(0.0f, 0.2f));
      for (int l = 0; l < layers; ++l) spec.gamma_layers.push_back(random.uniform(1.1f, 1.5f));
    }
    spec.sign = random.below(2) ? 1 : -1;
    if (random.below(2)) spec.adam_layers = {2, 5, 6};  // p and v start later than m
    REQUIRE(validate(spec, layers).ok());
    const size_t h = 1 + static_cast<size_t>(random.below(40));
    States states(h);
    std::vector<MomentumElement> elements(h);
    Row x = random.row(static_cast<int64_t>(h));
    std::vector<double> expected(x.begin(), x.end());
    for (int layer = 0; layer < layers; ++layer) {
      const Row y = random.row(static_cast<int64_t>(h));
      x = step(backend, spec, layer, x, y, &states);
      for (size_t i = 0; i < h; ++i) {
        expected[i] = elements[i].step(spec, layer, expected[i], y[i]);
        // Each layer adds at most eight roundings (coefficients, products, sums, root, quotient) of sums that the
        // recurrence of absolute values bounds, and does not enlarge the earlier ones beyond it.
        CHECK(std::fabs(x[i] - expected[i]) <= 8 * (layer + 1) * kU * elements[i].x_size);
      }
    }
  }
}

BACKEND_TEST_CASE("mu = 0, gamma = 1 is the baseline with the output negated, to the bit") {
  Random random(52);
  States states(50);
  Row x = random.row(50), baseline = x;
  for (int layer = 0; layer < 4; ++layer) {
    const Row y = random.row(50);
    x = step(backend, heavy_ball(0, 1), layer, x, y, &states);
    baseline = step(backend, MomentumSpec(), layer, baseline, times(y, Row(50, -1.0f)), &states);
    CHECK(same_bits(x, baseline));
  }
}

BACKEND_TEST_CASE("Adam: gamma1 is inert before a norm, p and v are dead after the first layer") {
  Random random(53);
  MomentumSpec one = default_spec(MomentumType::Adam), two = one;
  two.gamma1 = 2;
  Row y = random.row(64);
  for (float& value : y) value = std::copysign(std::fmax(std::fabs(value), 0.01f), value);
  States a(64), b(64);
  const Row x = random.row(64);
  const Row z1 = norm(step(backend, one, 0, x, y, &a), 1e-5f), z2 = norm(step(backend, two, 0, x, y, &b), 1e-5f);
  check_row(z1, std::vector<double>(z2.begin(), z2.end()), 1e-5);

  a.p = a.v = Row(64, NAN);
  const Row after = step(backend, one, 1, x, y, &a);
  for (float value : after) CHECK(std::isfinite(value));
}

BACKEND_TEST_CASE("y = 0: m decays as mu^l, the Adam layer gives 0") {
  States states(3);
  Row x = step(backend, heavy_ball(0.5, 1), 0, {0, 0, 0}, {1, -2, 3}, &states);
  for (int layer = 1; layer < 5; ++layer) step(backend, heavy_ball(0.5, 1), layer, x, {0, 0, 0}, &states);
  CHECK(states.m == Row{0.0625f, -0.125f, 0.1875f});
  for (float value : step(backend, default_spec(MomentumType::Adam), 0, {5, 6, 7}, {0, 0, 0}, &states))
    CHECK(value == 0);
}

TEST_CASE("state tensors and look-ahead") {
  const int expected[] = {0, 1, 2, 1, 1, 3};
  for (int type = 0; type < 6; ++type) {
    const MomentumSpec spec = default_spec(MomentumType(type));
    CHECK(validate(spec).ok());
    CHECK(state_tensors(spec) == expected[type]);
    CHECK(lookahead(spec, 0) == 0);
    const bool looks = spec.type == MomentumType::Robust || spec.type == MomentumType::Nesterov;
    CHECK((lookahead(spec, 1) != 0) == looks);
  }
}

TEST_CASE("specs that cannot work are refused, with what was wrong") {
  const auto refused = [](MomentumType type, void (*change)(MomentumSpec&), const char* part, int layers = -1) {
    MomentumSpec spec = default_spec(type);
    change(spec);
    const Status status = validate(spec, layers);
    CHECK(status.code() == Code::InvalidSpec);
    CHECK_MESSAGE(status.message().find(part) != std::string::npos, status.message());
  };
  const MomentumType ball = MomentumType::HeavyBall, adam = MomentumType::Adam, robust = MomentumType::Robust;
  refused(ball, [](MomentumSpec& s) { s.mu = 1; }, "momentum.mu");
  refused(ball, [](MomentumSpec& s) { s.mu = -1; }, "momentum.mu");
  refused(ball, [](MomentumSpec& s) { s.mu = NAN; }, "momentum.mu");
  refused(ball, [](MomentumSpec& s) { s.gamma = 1e39; }, "momentum.gamma");
  refused(ball, [](MomentumSpec& s) { s.sign = 0; }, "momentum.sign");
  refused(ball, [](MomentumSpec& s) { s.mu_layers = {0.5, 1.5}; }, "momentum.mu");
  refused(ball, [](MomentumSpec& s) { s.mu_layers = {0.5, 0.6}, s.gamma_layers = {1}; }, "lengths");
  refused(ball, [](MomentumSpec& s) { s.gamma_layers = {1, 1}; }, "momentum.gamma", 3);
  refused(MomentumType::Complex, [](MomentumSpec& s) { s.beta1 = 0.8, s.beta2 = 0.6; }, "momentum.beta");
  refused(adam, [](MomentumSpec& s) { s.beta1 = 1; }, "momentum.beta1");
  refused(adam, [](MomentumSpec& s) { s.beta2 = 1; }, "momentum.beta2");
  refused(adam, [](MomentumSpec& s) { s.beta2 = -0.1; }, "momentum.beta2");
  refused(adam, [](MomentumSpec& s) { s.eps = 0; }, "momentum.eps");
  refused(adam, [](MomentumSpec& s) { s.eps = 1e-50; }, "momentum.eps");
  refused(adam, [](MomentumSpec& s) { s.adam_layers = {-1}; }, "adam_layers");
  refused(adam, [](MomentumSpec& s) { s.adam_layers = {0, 6}; }, "adam_layers", 6);
  refused(robust, [](MomentumSpec& s) { s.gamma = 1; }, "gamma > 1");
  refused(robust, [](MomentumSpec& s) { s.L = 0; }, "momentum.L");
  refused(robust, [](MomentumSpec& s) { s.mu = 0.9, s.gamma = 2; }, "1.458");
  refused(MomentumType::None, [](MomentumSpec& s) { s.type = MomentumType(17); }, "momentum.type");
  MomentumSpec negative = heavy_ball(-0.7, 1);
  CHECK(validate(negative, 6).ok());
}
