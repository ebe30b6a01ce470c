#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "route_support.h"

using namespace smoe;
using namespace smoe_test;

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
  // a bias of +inf is the largest finite key: the lower id wins the tie
  RouterConfig plain = softmax_config(2, 1, false);
  plain.score = ScoreFn::Identity;
  plain.has_bias = true;
  CHECK(route(plain, {FLT_MAX, 1}, {0, INFINITY}).ids == std::vector<int32_t>{0});
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
