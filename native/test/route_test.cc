#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/route/reference.h"
#include "kernels/route/router.h"
#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  int32_t count = -1;
};

using RouteFn = decltype(&route_token);

Routed run(RouteFn function, const RouterConfig& config, const std::vector<float>& logits,
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
Routed route(const RouterConfig& config, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
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

bool same(const Routed& a, const Routed& b) { return same_bits(a.ids, b.ids) && same_bits(a.weights, b.weights); }

RouterConfig softmax_config(int64_t experts, int k, bool normalise) {
  RouterConfig config;
  config.experts = experts;
  config.k = k;
  config.norm_p = normalise ? 1.0f : 0.0f;
  return config;
}

RouterConfig v3_config(int64_t experts, int k, int groups, int kept) {
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

TEST_CASE("softmax then top-k then renormalise is top-k then softmax (C.8 1)") {
  Random random(43);
  RouterConfig late = softmax_config(64, 8, false);
  late.score = ScoreFn::Identity;
  late.source = WeighSource::Logit;
  late.post = WeighPost::Softmax;
  for (int trial = 0; trial < 100; ++trial) {
    const std::vector<float> logits = random.row(64, 2);
    const Routed a = route(softmax_config(64, 8, true), logits), b = route(late, logits);
    CHECK(same_bits(a.ids, b.ids));
    for (int i = 0; i < 8; ++i) CHECK(std::fabs(a.weights[i] - b.weights[i]) <= 1e-6);
  }
}

TEST_CASE("DeepSeek-V3 without bias and groups is sigmoid and renormalise; all groups kept is plain top-k (C.8 2, 3)") {
  Random random(44);
  for (int trial = 0; trial < 100; ++trial) {
    const std::vector<float> logits = random.row(64), zero(64, 0.0f), bias = random.row(64, 0.1f);
    RouterConfig plain = v3_config(64, 8, 1, 1);
    plain.select = SelectKind::TopK;
    RouterConfig unbiased = plain;
    unbiased.has_bias = false;
    CHECK(same(route(v3_config(64, 8, 1, 1), logits, zero), route(unbiased, logits)));
    CHECK(same(route(v3_config(64, 8, 8, 8), logits, bias), route(plain, logits, bias)));
  }
}

TEST_CASE("all-equal logits give ids 0..k-1 (C.8 5)") {
  for (float value : {0.0f, 3.0f, -1e30f, FLT_MAX, INFINITY}) {
    for (ScoreFn score : {ScoreFn::Identity, ScoreFn::Softmax, ScoreFn::Sigmoid}) {
      RouterConfig config = softmax_config(12, 5, false);
      config.score = score;
      const Routed out = route(config, std::vector<float>(12, value));
      for (int i = 0; i < 5; ++i) CHECK(out.ids[i] == i);
    }
  }
  // group ties: the lower groups
  const Routed out = route(v3_config(12, 4, 4, 2), std::vector<float>(12, 1.0f), std::vector<float>(12, 0.0f));
  for (int i = 0; i < 4; ++i) CHECK(out.ids[i] == i);
}

TEST_CASE("masked rows and experts (C.8 6)") {
  for (ScoreFn score : {ScoreFn::Identity, ScoreFn::Softmax, ScoreFn::Sigmoid}) {
    RouterConfig config = softmax_config(4, 3, true);
    config.score = score;
    CHECK(route(config, {NAN, NAN, NAN, NAN}).count == 0);
    CHECK(route(config, std::vector<float>(4, -INFINITY)).count == 0);
    const Routed one_nan = route(config, {1, NAN, 2, 0.5f});
    CHECK(one_nan.count == 3);
    CHECK(one_nan.ids == std::vector<int32_t>{2, 0, 3});
    const Routed few = route(config, {1, NAN, -INFINITY, 0.5f});
    CHECK(few.count == 2);
    CHECK(few.ids == std::vector<int32_t>{0, 3, -1});
    config.has_bias = true;
    CHECK(route(config, {1, 2, 3, 4}, std::vector<float>(4, -INFINITY)).count == 0);
    CHECK(route(config, {1, 2, 3, 4}, {0, 0, -INFINITY, NAN}).ids == std::vector<int32_t>{1, 0, -1});
  }
  // one unmasked expert in a group of two, the other group empty: it is found
  RouterConfig grouped = v3_config(4, 2, 2, 1);
  const Routed lone = route(grouped, {NAN, NAN, NAN, 1}, std::vector<float>(4, 0.0f));
  CHECK(lone.ids == std::vector<int32_t>{3, -1});
}

TEST_CASE("saturated and underflowed scores: still selectable, lower id first, no NaN") {
  RouterConfig config = softmax_config(6, 3, true);
  CHECK(route(config, {-500, 1000, -400, -300, -200, -100}).ids == std::vector<int32_t>{1, 0, 2});
  config.score = ScoreFn::Sigmoid;  // exactly 1 from logit 17 on
  CHECK(route(config, {20, 40, 1, 30, 50, 2}).ids == std::vector<int32_t>{0, 1, 3});

  // a bias that selects only experts whose score is 0: nothing to divide by
  config.score = ScoreFn::Softmax;
  config.has_bias = true;
  const std::vector<float> bias = {9, 0, 9, 9, 0, 0};
  for (NormEps rule : {NormEps::None, NormEps::Add, NormEps::ClampMin, NormEps::ZeroSafe}) {
    config.norm_eps = rule;
    const Routed out = route(config, {-500, 1000, -400, -300, -200, -100}, bias);
    CHECK(out.ids == std::vector<int32_t>{0, 2, 3});
    for (float weight : out.weights) CHECK(weight == 0);
  }
}

TEST_CASE("a constant added to the bias changes no weight (C.8 7)") {
  Random random(45);
  int compared = 0;
  for (int trial = 0; trial < 50; ++trial) {
    const std::vector<float> logits = random.row(32);
    std::vector<float> bias(32);  // multiples of 2^-6, so that the shift itself is exact
    for (float& b : bias) b = static_cast<float>(random.below(16)) / 64;
    const RouterConfig config = v3_config(32, 4, 1, 1);
    const Routed a = route(config, logits, bias);
    for (float& b : bias) b += 8;
    const Routed b = route(config, logits, bias);
    if (!same_bits(a.ids, b.ids)) continue;  // 8 costs keys three bits, which can make a tie
    ++compared;
    CHECK(same_bits(a.weights, b.weights));
  }
  CHECK(compared > 40);
}

TEST_CASE("the group fill value decides whether a masked 0 beats a negative key (A.5)") {
  RouterConfig config = v3_config(4, 2, 2, 1);
  const std::vector<float> logits = {-1, -2, 2, 1}, bias(4, -0.9f);
  CHECK(route(config, logits, bias).ids == std::vector<int32_t>{2, 3});
  config.group_fill = GroupFill::Zero;
  CHECK(route(config, logits, bias).ids == std::vector<int32_t>{0, 1});
}

TEST_CASE("slots are in the order of key, then id (C.8 14), and rows are independent (C.8 13)") {
  Random random(46);
  std::vector<std::vector<float>> rows;
  std::vector<Routed> forward;
  const RouterConfig config = softmax_config(40, 8, true);
  for (int t = 0; t < 20; ++t) {
    rows.push_back(random.row(40));
    for (float& logit : rows.back()) logit = std::round(2 * logit);
    forward.push_back(route(config, rows.back()));
    for (int i = 0; i + 1 < 8; ++i) {
      const int32_t a = forward.back().ids[i], b = forward.back().ids[i + 1];
      CHECK((rows[t][a] > rows[t][b] || (rows[t][a] == rows[t][b] && a < b)));
    }
  }
  for (int t = 19; t >= 0; --t) CHECK(same(route(config, rows[t]), forward[t]));
}

TEST_CASE("momentum vector V2") {
  const std::vector<float> logits = {1.0f, 2.0f, 0.5f, 1.5f};
  const Routed lm = route(softmax_config(4, 2, true), logits), vision = route(softmax_config(4, 2, false), logits);
  CHECK(lm.ids == std::vector<int32_t>{1, 3});
  CHECK(vision.ids == std::vector<int32_t>{1, 3});
  // exp of |d| <= 1.5 and at most 12 roundings, on values below 1
  CHECK(std::fabs(lm.weights[0] - 0.6224593312018546) <= 20 * kU);
  CHECK(std::fabs(lm.weights[1] - 0.37754066879814546) <= 20 * kU);
  CHECK(std::fabs(vision.weights[0] - 0.45505423392341116) <= 20 * kU);
  CHECK(std::fabs(vision.weights[1] - 0.2760043447065936) <= 20 * kU);
  CHECK(route(softmax_config(4, 1, true), logits).weights[0] == 1);
  CHECK(std::fabs(route(softmax_config(4, 1, false), logits).weights[0] - 0.45505423392341116) <= 20 * kU);
}

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

TEST_CASE("what no router can be is refused") {
  const auto refused = [](void (*change)(RouterConfig&)) {
    RouterConfig config = v3_config(12, 4, 4, 2);
    CHECK(validate(config).ok());
    change(config);
    const Status status = validate(config);
    CHECK(status.code() == Code::InvalidSpec);
    CHECK_FALSE(status.message().empty());
  };
  refused([](RouterConfig& c) { c.experts = 0; });
  refused([](RouterConfig& c) { c.experts = int64_t{1} << 40; });
  refused([](RouterConfig& c) { c.k = 0; });
  refused([](RouterConfig& c) { c.k = 13; });
  refused([](RouterConfig& c) { c.k = 7; });  // two groups of three hold six
  refused([](RouterConfig& c) { c.groups = 5; });
  refused([](RouterConfig& c) { c.groups = 0; });
  refused([](RouterConfig& c) { c.groups_kept = 5; });
  refused([](RouterConfig& c) { c.groups_kept = 0; });
  refused([](RouterConfig& c) { c.groups = 12; });  // sum2 of groups of one
  refused([](RouterConfig& c) { c.norm_p = -1; });
  refused([](RouterConfig& c) { c.norm_p = NAN; });
  refused([](RouterConfig& c) { c.eps = -1; });
  refused([](RouterConfig& c) { c.scale = INFINITY; });
  refused([](RouterConfig& c) { c.score = ScoreFn(9); });
}
