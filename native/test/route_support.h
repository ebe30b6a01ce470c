// Routing one token by both paths, for the tests of routing.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "kernels/route/router.h"
#include "ops_support.h"

namespace smoe_test {

using namespace smoe;

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  int32_t count = -1;
};

using RouteFn = decltype(&route_token);

inline Routed run(RouteFn function, const RouterConfig& config, const std::vector<float>& logits,
                  const std::vector<float>& bias) {
  Guarded<float> in(logits), scratch(2 * config.experts, NAN), weights(config.k, NAN);
  Guarded<int32_t> ids(config.k, -9);
  Routed out;
  function(*kernels(), config, in.data(), bias.empty() ? nullptr : bias.data(), scratch.data(), ids.data(),
           weights.data(), &out.count);
  CHECK(same_bits(in.copy(), logits));
  out.ids = ids.copy();
  out.weights = weights.copy();
  return out;
}

// Routes by both paths, which must agree to the bit, and checks what holds for any input.
inline Routed route(const RouterConfig& config, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  const Routed out = run(route_token, config, logits, bias), general = run(route_general, config, logits, bias);
  CHECK(out.count == general.count);
  CHECK(same_bits(out.ids, general.ids));
  CHECK(same_bits(out.weights, general.weights));
  CHECK(out.count >= 0);
  CHECK(out.count <= config.k);
  std::vector<bool> seen(static_cast<size_t>(config.experts));
  for (int i = 0; i < config.k; ++i) {
    CHECK(std::isfinite(out.weights[i]));
    if (i >= out.count) {
      CHECK(out.ids[i] == -1);
      CHECK(out.weights[i] == 0);
      continue;
    }
    REQUIRE(out.ids[i] >= 0);
    REQUIRE(out.ids[i] < config.experts);
    CHECK_FALSE(seen[out.ids[i]]);
    seen[out.ids[i]] = true;
  }
  return out;
}

inline bool same(const Routed& a, const Routed& b) {
  return same_bits(a.ids, b.ids) && same_bits(a.weights, b.weights);
}

inline RouterConfig softmax_config(int64_t experts, int k, bool normalise) {
  RouterConfig config;
  config.experts = experts;
  config.k = k;
  config.norm_p = normalise ? 1.0f : 0.0f;
  return config;
}

inline RouterConfig v3_config(int64_t experts, int k, int groups, int kept) {
  RouterConfig config = softmax_config(experts, k, true);
  config.score = ScoreFn::Sigmoid;
  config.has_bias = true;
  config.select = SelectKind::GroupTopK;
  config.groups = groups;
  config.groups_kept = kept;
  config.norm_eps = NormEps::Add;
  config.eps = 1e-20f;
  config.scale = 2.5f;
  return config;
}

}  // namespace smoe_test
