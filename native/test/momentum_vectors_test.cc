// Hand vectors V3 to V9 and V11 of the momentum specification, through the kernels.
#include <doctest/doctest.h>

#include <cmath>

#include "momentum_support.h"

using namespace smoe;
using namespace smoe_test;

BACKEND_TEST_CASE("V3: gate, combine and step of a tiny MoE") {
  const Row h = {1, -1};
  const MoeLayer layer = constant_layer({{2.0f, 2.5f}, {9.0f, 9.0f}, {1.5f, -1.5f}}, {1.0f, -0.5f, 0.0f}, 2);
  States states(2);
  Row z(2), y(2);
  float weights[2];
  int32_t ids[2], count;
  Routing routing{1, 2, ids, weights, &count};
  MoeLayer::Forward args;
  args.hidden = args.residual = h.data();
  args.tokens = 1;
  args.step = residual_step(heavy_ball(0.7, 1), 0);
  args.state = states.pointers();
  args.out = z.data();
  args.update_out = y.data();
  args.routing_out = &routing;
  REQUIRE(backend.forward(layer, args).ok());
  CHECK(ids[0] == 0);
  CHECK(ids[1] == 2);
  check_row({weights[0], weights[1]}, {0.7310585786300049, 0.2689414213699951}, 20 * kU);
  check_row(y, {1.8655292893150024, 1.4242343145200196}, 40 * kU);
  check_row(z, {-0.8655292893150024, -2.4242343145200196}, 40 * kU);
}

BACKEND_TEST_CASE("V4: heavy ball without norms") {
  const Row x0 = {1, -2}, y[] = {{0.5f, -1.0f}, {0.2f, 0.4f}, {-0.1f, 0.3f}};
  struct Case {
    MomentumSpec spec;
    std::vector<double> m, x;  // after the third layer
  };
  std::vector<Case> cases = {
      {heavy_ball(0.7, 1), {0.285, 0.09}, {-0.335, -0.79}},
      {heavy_ball(0.7, 0.8), {0.228, 0.072}, {-0.068, -1.032}},
      {heavy_ball(-0.2, 1), {-0.12, 0.18}, {0.52, -1.78}},
      {heavy_ball(0.7, 1), {0.265, -0.2}, {-0.215, -0.3}},
  };
  cases[3].spec.gamma_layers = {1, 0.5, 0.5};
  for (Case& c : cases) {
    REQUIRE(validate(c.spec).ok());
    States states(2);
    Row x = x0;
    for (int layer = 0; layer < 3; ++layer) x = step(backend, c.spec, layer, x, y[layer], &states);
    check_row(states.m, c.m, kPlain);
    check_row(x, c.x, kPlain);
  }
  // mu as an array is the same thing
  MomentumSpec layers = heavy_ball(0.1, 1);
  layers.mu_layers = {0.7, 0.7, 0.7};
  States states(2);
  Row x = x0;
  for (int layer = 0; layer < 3; ++layer) x = step(backend, layers, layer, x, y[layer], &states);
  check_row(x, cases[0].x, kPlain);
}

BACKEND_TEST_CASE("V5: language-model sub-block") {
  const Row y[] = {{0.5f, -1.0f, 0.25f, 2.0f}, {-0.5f, 0.5f, 1.0f, -1.0f}, {0.1f, -0.2f, 0.3f, -0.4f}};
  MomentumSpec complex = default_spec(MomentumType::Complex), adam = default_spec(MomentumType::Adam);
  MomentumSpec adam8 = adam;
  adam8.gamma1 = 0.8;
  const struct {
    MomentumSpec spec;
    std::vector<double> h;
  } cases[] = {
      {MomentumSpec(), {-1.336988235609437, -0.5889068705683507, 1.037462614362505, 0.8884324918152825}},
      {heavy_ball(0.7, 1), {-1.5432104080659297, 0.8192826886815369, -0.2233698776241883, 0.9472975970085812}},
      {heavy_ball(0.7, 0.8), {-1.5737297079301762, 0.5661475025185314, -0.08579789952573058, 1.0933801049373755}},
      {heavy_ball(-0.2, 1), {-1.4929152992264247, 0.046077552244801555, 0.12241930408708421, 1.3244184428945391}},
      {complex, {-1.5425342063979826, 0.8126345132955255, -0.22404332721990286, 0.9539430203223599}},
      {adam, {-1.1614206883192972, 1.2460924266267739, -0.7821874147659861, 0.6975156764585091}},
      {adam8, {-1.1614208278176867, 1.2460921932554345, -0.7821873260342327, 0.6975159605964846}},
  };
  for (const auto& c : cases) {
    REQUIRE(validate(c.spec).ok());
    States states(4);
    Row h = {1, 2, 3, 4};
    for (int layer = 0; layer < 3; ++layer) {
      const Row z = step(backend, c.spec, layer, h, y[layer], &states);
      if (layer == 0 && c.spec.type == MomentumType::Adam && c.spec.gamma1 == 1) {
        check_row(z, {-3.162214416512477, 3.162261848898661, -3.162024708309382, -3.1622737073287133}, 8 * kU * 3.2);
        check_row(states.m, {0.5, -1, 0.25, 2}, 0);
      }
      h = norm(sum(h, norm(z, 1e-5f)), 1e-5f);
    }
    check_row(h, c.h, kNormed);
  }
}

BACKEND_TEST_CASE("V6: the first Adam layer is a fixed function of y, whatever the residual") {
  const Row y = {0.0f, 1e-5f, 1e-4f, 1e-3f, 0.0031622776601683794f, 0.01f, 0.1f, 1.0f, -2.0f};
  const std::vector<double> expected = {0.0,
                                        -0.009999950000374997,
                                        -0.09995003746877733,
                                        -0.9534625892455924,
                                        -2.2360679774997894,
                                        -3.015113445777635,
                                        -3.1606977062050685,
                                        -3.162261848898662,
                                        3.162273707328714};
  for (float x : {0.0f, 1.0f, 1000.0f, 1e30f}) {  // subtracting and adding 1000 would cost two digits
    States states(y.size());
    const Row z = step(backend, default_spec(MomentumType::Adam), 0, Row(y.size(), x), y, &states);
    // y and the constants are rounded, products, square, sum, root, quotient: at most ten roundings
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(z[i] - expected[i]) <= 10 * kU * std::fabs(expected[i]));
  }
}

BACKEND_TEST_CASE("V6b: Adam in all layers, kappa 1, 0 and 0.1") {
  const Row y[] = {{0.5f, -1.0f}, {0.2f, 0.4f}, {-0.1f, 0.3f}};
  const struct {
    double kappa;
    std::vector<double> x;
  } cases[] = {{1, {-2.802624382694602, 0.4246292370209256}},
               {0, {-8.783350626959585, 3.0555684885802816}},
               {0.1, {-8.071678705046963, 2.849870997023467}}};
  for (const auto& c : cases) {
    MomentumSpec spec = default_spec(MomentumType::Adam);
    spec.adam_layers = {0, 1, 2};
    spec.kappa = c.kappa;
    States states(2);
    Row x = {1, -2};
    for (int layer = 0; layer < 3; ++layer) x = step(backend, spec, layer, x, y[layer], &states);
    check_row(states.p, {0.0485, -0.015}, 10 * kU);
    check_row(states.v, {0.00029946025, 0.001247841}, 10 * kU * 0.002);
    check_row(x, c.x, 36 * kU * 9);  // twelve roundings a layer
  }
}

TEST_CASE("V7: robust constants") {
  const double table[][6] = {
      {0.2, 1.25, 1, 0.04166666666666667, 0.96, 0.04},  {0.2, 1.1, 1, 0.10416666666666659, 0.8448, 0.088},
      {0.3, 1.5, 1, 0.0847723704866562, 0.9555, 0.081}, {0.5, 2, 1, 0.3333333333333333, 0.75, 0.25},
      {0.7, 2, 1, 2.2418300653594763, 0.306, 0.686},    {0.2, 1.25, 2, 0.04166666666666667, 0.48, 0.04}};
  for (const auto& row : table) {
    const RobustConstants constants = robust_constants(row[0], row[1], row[2]);
    CHECK(std::fabs(constants.eps - row[3]) <= 1e-12 * row[3]);
    CHECK(std::fabs(constants.beta - row[4]) <= 1e-12 * row[4]);
    CHECK(std::fabs(constants.alpha - row[5]) <= 1e-12 * row[5]);
    MomentumSpec spec = default_spec(MomentumType::Robust);
    spec.mu = row[0];
    spec.gamma = row[1];
    spec.L = row[2];
    CHECK(validate(spec).ok());
    CHECK(lookahead(spec, 1) == doctest::Approx(row[5] / row[2]).epsilon(2 * kU));
  }
}

BACKEND_TEST_CASE("V8: vision blocks, MoE, dense, MoE, with the look-ahead of robust momentum in all of them") {
  const Row gains[] = {{0.5f, -0.5f, 0.25f, 1.0f}, {0.1f, 0.1f, 0.1f, 0.1f}, {-1.0f, 0.5f, 0.5f, 0.25f}};
  const struct {
    MomentumSpec spec;
    std::vector<double> x, m;
  } cases[] = {
      {MomentumSpec(), {1.539204311429079, 2.0477922814406604, 3.2317698463336852, 5.844783267318971}, {}},
      {heavy_ball(0.9, 1),
       {-1.3393725017287093, -0.08114645215249507, 1.4818008075262585, -0.06128185364505433},
       {0.4812035107549314, -0.2420763190417269, 0.701444626849118, 1.3999620048594037}},
      {default_spec(MomentumType::Robust),
       {-1.6003570230932394, -0.09108804749564624, 0.8513766482103912, 0.8400684223784944},
       {-1.0623946667439534, 0.42644337681149264, -0.5800948569735244, -0.24579263722333738}},
  };
  for (const auto& c : cases) {
    const bool momentum = c.spec.type != MomentumType::None;
    States states(4);
    Row x = {1, 2, 3, 4};
    int layer = 0;
    for (int block = 0; block < 3; ++block) {
      const Row u = look_ahead(c.spec, layer, norm(x, 1e-6f), states);
      if (block == 1 && c.spec.type == MomentumType::Robust) {
        check_row(u, {-1.0907649002499118, -0.869474077783317, 1.148856019906135, 0.7711337506317775}, kNormed);
      }
      const Row y = times(u, gains[block]);
      x = block == 1 ? sum(x, y) : step(backend, c.spec, layer++, x, y, &states);
      if (momentum) x = norm(x, 1e-6f);
    }
    check_row(x, c.x, 3 * kNormed);  // of values up to 6
    if (momentum) check_row(states.m, c.m, kNormed);
  }
}

BACKEND_TEST_CASE("V9: Nesterov") {
  const MomentumSpec spec = default_spec(MomentumType::Nesterov);  // mu 0.7, gamma 1
  const std::vector<double> expected[] = {{0.5, -1.0}, {0.075, -0.15}, {-0.11125, 0.2225}};
  States states(2);
  Row x = {1, -2};
  for (int layer = 0; layer < 3; ++layer) {
    const Row u = look_ahead(spec, layer, x, states);
    x = step(backend, spec, layer, x, times(u, {0.5f, 0.5f}), &states);
    check_row(x, expected[layer], kPlain);
  }
  check_row(states.m, {-0.18625, 0.3725}, kPlain);
}

// The step as a linear map of (h, m) when y = s*h: its matrix, read off the kernel, and the size of its eigenvalues.
BACKEND_TEST_CASE("V11: spectrum of the heavy-ball step") {
  const double cases[][3] = {{0, 0.5, 0.5},
                             {0, 2.1, 1.1},
                             {0.7, 0.5, 0.8366600265},
                             {0.7, 3.3, 0.8366600265},
                             {0.7, 3.5, 1.2316624790},
                             {-0.2, 1.5, 0.9178908346},
                             {-0.2, 1.7, 1.0844288770}};
  for (const auto& c : cases) {
    States states(2);
    states.m = {0, 1};
    const Row h = {1, 0};  // element 0 starts at (h, m) = (1, 0), element 1 at (0, 1)
    const Row z = step(backend, heavy_ball(c[0], 1), 1, h, times(h, Row(2, static_cast<float>(c[1]))), &states);
    const double trace = static_cast<double>(z[0]) + states.m[1];
    const double determinant = static_cast<double>(z[0]) * states.m[1] - static_cast<double>(z[1]) * states.m[0];
    const double discriminant = trace * trace / 4 - determinant;
    const double largest = discriminant < 0 ? std::sqrt(determinant) : std::fabs(trace) / 2 + std::sqrt(discriminant);
    CHECK(std::fabs(largest - c[2]) <= 1e-6);
  }
}
