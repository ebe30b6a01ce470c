#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/route/reference.h"
#include "route_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

RouterConfig random_config(Random& random) {
  RouterConfig config;
  config.groups = 1 + random.below(5);
  config.experts = config.groups * (2 + random.below(random.below(4) == 0 ? 60 : 8));
  config.groups_kept = 1 + random.below(config.groups);
  config.score = ScoreFn(random.below(3));
  config.has_bias = random.below(2);
  config.select = SelectKind(random.below(3) == 0);
  config.group_reduce = GroupReduce(random.below(2));
  config.group_fill = GroupFill(random.below(2));
  const int64_t room = config.select == SelectKind::GroupTopK && config.group_fill == GroupFill::NegInf
                           ? config.experts / config.groups * config.groups_kept
                           : config.experts;
  config.k = 1 + random.below(static_cast<int>(std::min<int64_t>(room, random.below(4) == 0 ? 300 : 8)));
  config.source = WeighSource(random.below(4) == 0);
  config.post = WeighPost(random.below(3));
  config.norm_p = random.below(3) == 0 ? 0.0f : (random.below(4) == 0 ? 2.0f : 1.0f);
  config.norm_eps = NormEps(random.below(4));
  config.eps = random.below(2) ? 1e-20f : 1e-6f;
  config.scale = random.below(2) ? 1.0f : 2.5f;
  REQUIRE(validate(config).ok());
  return config;
}

// Logits from a few values, so that ties are everywhere, with some of the values that storms are made of.
float stormy(Random& random) {
  const float values[] = {NAN,   -NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0.0f,    -0.0f, 17.0f,
                          18.0f, 1e4f, -1e4f,    1e30f,     -1e30f,  1.0f,     1.0001f, 0.5f,  FLT_TRUE_MIN};
  return values[random.below(sizeof values / sizeof values[0])];
}

}  // namespace

TEST_CASE("routing against the reference") {
  Random random(41);
  int compared = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const RouterConfig config = random_config(random);
    const std::vector<float> logits = random.row(config.experts, 2), bias = random.row(config.experts, 0.1f);
    const reference::Route expected = reference::route(config, logits.data(), bias.data());
    const Routed actual = route(config, logits, bias);
    // f32 scores of logits within +-10: softmax has (20+8)u for exp, the same averaged in its sum, (E/16+8)u for the
    // additions; relative to scores of at most 1 (identity: keys up to 10, one rounding). A group score has two keys.
    const double score = (2 * 28 + config.experts / 16.0 + 8) * kU;
    if (expected.margin < 4 * score) continue;
    ++compared;
    REQUIRE(actual.count == static_cast<int>(expected.ids.size()));
    for (int i = 0; i < actual.count; ++i) {
      CHECK(actual.ids[i] == expected.ids[i]);
      // A quotient of such scores has twice the error. Weights of either sign (raw logits) may cancel in the sum.
      double sum = 0, absolute = 0;
      for (double weight : expected.weights) sum += weight, absolute += std::fabs(weight);
      const double cancelled = config.norm_p == 1 && sum != 0 ? std::fmax(1, absolute / std::fabs(sum)) : 1;
      CHECK(std::fabs(actual.weights[i] - expected.weights[i]) <=
            4 * score * cancelled * std::fabs(expected.weights[i]) + 1e-37);
    }
  }
  CHECK(compared > 800);
}

TEST_CASE("any logits: both paths agree, ids distinct, weights finite") {
  Random random(42);
  for (int trial = 0; trial < 5000; ++trial) {
    const RouterConfig config = random_config(random);
    std::vector<float> logits = random.row(config.experts, trial % 3 == 0 ? 100.0f : 1.0f);
    std::vector<float> bias = random.row(config.experts);
    const int density = random.below(4);
    for (float& logit : logits) {
      if (random.below(4) < density) logit = stormy(random);
      if (trial % 7 == 0) logit = std::round(logit);  // exact ties
    }
    if (trial % 5 == 0) bias[random.below(static_cast<int>(config.experts))] = stormy(random);
    const Routed out = route(config, logits, bias);
    int64_t masked = 0;
    for (float logit : logits) masked += std::isnan(logit) || logit == -INFINITY;
    for (int i = 0; i < out.count; ++i) {
      CHECK_FALSE(std::isnan(logits[out.ids[i]]));
      CHECK(logits[out.ids[i]] != -INFINITY);
    }
    if (config.select == SelectKind::TopK && !config.has_bias) {
      CHECK(out.count == std::min<int64_t>(config.k, config.experts - masked));
    }
  }
}
