// P1: logits against double, and to the bit against K1's; routes against the double-precision
// reference on the kernel's own logits, so that selection is compared exactly wherever keys are apart.
#include <algorithm>

#include "kernels/route/reference.h"
#include "route_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int tokens, experts, hidden, splits;
  RouterConfig config;
  unsigned seed;
  bool f32 = false;  // w
  bool bad_rows = false;
};

struct Result {
  std::vector<float> logits, weights;
  std::vector<int32_t> ids, count, histogram;
};

size_t size(int64_t n) { return static_cast<size_t>(n); }

struct Inputs {
  std::vector<float> x, w, router_bias, select_bias;  // w rounded if it is bf16
  std::vector<bf16> w_bf16;

  explicit Inputs(const Case& c) {
    w = random_floats(size(c.experts) * size(c.hidden), c.seed, 1 / std::sqrt(static_cast<float>(c.hidden)));
    for (float& value : w) {
      w_bf16.push_back(to_bf16(value));
      if (!c.f32) value = to_float(w_bf16.back());
    }
    x = random_floats(size(c.tokens) * size(c.hidden), c.seed + 1);
    for (size_t i = 0; c.bad_rows && i < x.size(); i += 3 * size(c.hidden)) x[i] = NAN;
    router_bias = random_floats(size(c.experts), c.seed + 2, 0.1f);
    select_bias = random_floats(size(c.experts), c.seed + 3, 0.1f);
  }
};

Result run(const Case& c, const Inputs& in, const Run& mode, uint64_t seed, bool trace = true) {
  Gpu gpu(mode, seed);
  const size_t t = size(c.tokens), e = size(c.experts), k = size(c.config.k), rows = (t + 31) / 32;
  auto x = gpu.array(in.x, "x");
  auto w = gpu.constant(in.w, "w");
  auto w_bf16 = gpu.constant(in.w_bf16, "w");
  auto router_bias = gpu.constant(in.router_bias, "router bias");
  auto select_bias = gpu.constant(in.select_bias, "select bias");
  auto ids = gpu.array<int32_t>(t * k, "ids"), count = gpu.array<int32_t>(t, "count");
  auto weights = gpu.array<float>(t * k, "weights"), logits = gpu.array<float>(t * e, "logits");
  auto histogram = gpu.array<int32_t>(rows * e, "histogram");
  RouteManyArgs args;
  args.x = x.data();
  args.w = c.f32 ? static_cast<const void*>(w.data()) : w_bf16.data();
  args.w_f32 = c.f32;
  args.router_bias = router_bias.data();
  args.select_bias = select_bias.data();
  args.tokens = c.tokens;
  args.hidden = c.hidden;
  args.splits = c.splits;
  args.config = c.config;
  auto partials = gpu.array<float>(size(route_many_partials(c.tokens, c.experts, c.splits)), "partials");
  args.partials = partials.data();
  args.routing = {ids.data(), weights.data(), count.data()};
  if (trace) args.logits = logits.data();
  args.histogram = histogram.data();
  REQUIRE(launch_route_many(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(ids.unwritten_bytes() + weights.unwritten_bytes() + count.unwritten_bytes() + histogram.unwritten_bytes() +
              (trace ? logits.unwritten_bytes() : 0) ==
          0);
  return {logits.download(), weights.download(), ids.download(), count.download(), histogram.download()};
}

// What K1 makes of the same tokens, 64 at a time. Tensor cores add inside an instruction as they like, so that only K1
// itself can say what the bits have to be.
std::vector<float> k1_logits(const Case& c, const Inputs& in) {
  std::vector<float> all;
  for (int first = 0; first < c.tokens; first += kDispatchMaxTokens) {
    Gpu gpu;
    const int tokens = std::min(c.tokens - first, kDispatchMaxTokens);
    const size_t t = size(tokens), e = size(c.experts), k = size(c.config.k), h = size(c.hidden);
    const auto row = in.x.begin() + static_cast<std::ptrdiff_t>(size(first) * h);
    auto x = gpu.array(std::vector<float>(row, row + static_cast<std::ptrdiff_t>(t * h)), "x");
    auto w = gpu.constant(in.w, "w");
    auto w_bf16 = gpu.constant(in.w_bf16, "w");
    auto router_bias = gpu.constant(in.router_bias, "router bias");
    auto select_bias = gpu.constant(in.select_bias, "select bias");
    auto num_tokens = gpu.constant(std::vector<int32_t>{tokens}, "num_tokens");
    auto partials = gpu.array<float>(size(c.splits) * size(kDispatchMaxTokens) * e, "partials");
    auto tickets = gpu.array(std::vector<uint32_t>(9, 0), "tickets");
    auto ids = gpu.array<int32_t>(t * k, "ids"), count = gpu.array<int32_t>(t, "count");
    auto weights = gpu.array<float>(t * k, "weights"), logits = gpu.array<float>(t * e, "logits");
    auto offset = gpu.array<int32_t>(e + 1, "offset");
    auto mask = gpu.array<uint64_t>(e, "mask");
    RouteDispatchArgs args;
    args.x = x.data();
    args.w = c.f32 ? static_cast<const void*>(w.data()) : w_bf16.data();
    args.w_f32 = c.f32;
    args.router_bias = router_bias.data();
    args.select_bias = select_bias.data();
    args.num_tokens = num_tokens.data();
    args.hidden = c.hidden;
    args.splits = c.splits;
    args.config = c.config;
    args.partials = partials.data();
    args.tickets = tickets.data();
    args.routing = {ids.data(), weights.data(), count.data()};
    args.logits = logits.data();
    args.plan.mask = mask.data();
    args.plan.offset = offset.data();
    REQUIRE(launch_route_dispatch(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    const std::vector<float> some = logits.download();
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

void check_logits(const Case& c, const Inputs& in, const Result& result) {
  // f32 accumulation of `hidden` products in up to six parts each, warps and splits; parts below 2^-24 are left out.
  const double bound = (c.hidden + 64) * std::ldexp(1.0, -24) + std::ldexp(1.0, -22);
  const std::vector<float> k1 = k1_logits(c, in);
  for (int t = 0; t < c.tokens; ++t) {
    for (int e = 0; e < c.experts; ++e) {
      const float got = result.logits[size(t) * size(c.experts) + size(e)];
      if (c.bad_rows && t % 3 == 0) {
        REQUIRE(std::isnan(got));
        continue;
      }
      double sum = in.router_bias[size(e)], magnitude = std::fabs(sum);
      for (int h = 0; h < c.hidden; ++h) {
        const double product =
            static_cast<double>(in.w[size(e) * size(c.hidden) + size(h)]) * in.x[size(t) * size(c.hidden) + size(h)];
        sum += product;
        magnitude += std::fabs(product);
      }
      REQUIRE(close(got, sum, bound * magnitude));
      REQUIRE(got == k1[size(t) * size(c.experts) + size(e)]);
    }
  }
}

// How many tokens were compared: the others had keys closer than f32 scores can tell apart.
int check_routes(const Case& c, const Inputs& in, const Result& result) {
  const size_t k = size(c.config.k);
  int compared = 0;
  std::vector<int32_t> histogram((size(c.tokens) + 31) / 32 * size(c.experts), 0);
  for (size_t t = 0; t < size(c.tokens); ++t) {
    const auto expected = reference::route(c.config, result.logits.data() + t * size(c.experts), in.select_bias.data());
    REQUIRE(result.count[t] == static_cast<int>(expected.ids.size()));
    for (size_t j = 0; j < k; ++j) {
      const int id = result.ids[t * k + j];
      REQUIRE(id >= -1);
      REQUIRE(id < c.experts);
      REQUIRE((id >= 0) == (j < expected.ids.size()));
      REQUIRE(std::isfinite(result.weights[t * k + j]));
      if (id < 0) REQUIRE(result.weights[t * k + j] == 0);
      if (id >= 0) ++histogram[t / 32 * size(c.experts) + size(id)];
    }
    // Keys up to 5 (logit and bias) or sums of two of them, rounded twice in f32: within 1.2e-6.
    if (expected.margin < 2e-6) continue;
    ++compared;
    for (size_t j = 0; j < expected.ids.size(); ++j) {
      REQUIRE(result.ids[t * k + j] == expected.ids[j]);
      // Exponentials within 2^-21 (their arguments are rounded too), a sum of up to E terms, the quotient.
      const double weight = expected.weights[j];
      REQUIRE(close(result.weights[t * k + j], weight, 1e-5 * std::fabs(weight) + 1e-37));
    }
  }
  REQUIRE(result.histogram == histogram);
  return compared;
}

int check(const Case& c, const std::vector<Run>& runs) {
  CAPTURE(c.tokens);
  CAPTURE(c.experts);
  CAPTURE(c.hidden);
  CAPTURE(c.splits);
  CAPTURE(c.seed);
  const Inputs in(c);
  Result first;
  int compared = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Result result = run(c, in, runs[i], i + 1);
    if (i == 0) {
      check_logits(c, in, result);
      compared = check_routes(c, in, result);
      first = result;
    }
    REQUIRE(same_bits(first.logits, result.logits));
    REQUIRE(same_bits(first.weights, result.weights));
    REQUIRE(first.ids == result.ids);
    REQUIRE(first.count == result.count);
    REQUIRE(first.histogram == result.histogram);
  }
  return compared;
}

}  // namespace

TEST_CASE("route_many: token counts, in all schedules and orders") {
  for (const int tokens : {0, 1, 31, 32, 33, 65, 100}) {
    const Case c{tokens, 33, 72, 1, router(33, 4), 11u + static_cast<unsigned>(tokens)};
    const int compared = check(c, tokens <= 1 || tokens == 33 ? all_runs() : kTwo);
    CHECK(compared >= tokens * 9 / 10);
  }
}

TEST_CASE("route_many: expert counts, and as many slots as there are experts") {
  for (const int experts : {1, 3, 8, 64, 65, 300}) {
    const int k = std::min(experts, 32);
    CHECK(check({33, experts, 40, 1, router(experts, k), 40u + static_cast<unsigned>(experts)}, kTwo) >= 20);
  }
  check({9, 1024, 8, 1, router(1024, 32), 7}, kTwo);
}

TEST_CASE("route_many: the order of additions over ranges, shares and chunks, for both types of weights") {
  for (const bool f32 : {false, true}) {
    for (const int experts : {16, 80}) {
      // Less than one chunk; a ragged last chunk; shares with several chunks, empty shares, empty ranges.
      check({3, experts, 8, 1, router(experts, 2), 60, f32}, kTwo);
      check({3, experts, 328, 1, router(experts, 2), 61, f32}, kTwo);
      check({3, experts, 328, 3, router(experts, 2), 62, f32}, kTwo);
      check({3, experts, 1032, 2, router(experts, 2), 63, f32}, kTwo);
      check({3, experts, 72, 5, router(experts, 2), 64, f32}, kTwo);
    }
  }
}

TEST_CASE("route_many: the router catalogue") {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  int tokens = 0, compared = 0;
  for (int i = 0; i < 40; ++i) {
    RouterConfig config = any_router(below);
    // Experts of groups not kept are either out, leaving slots unused, or tie at zero.
    config.group_fill = GroupFill::NegInf;
    if (!validate(config).ok()) continue;
    CAPTURE(i);
    const Case c{1 + below(12), static_cast<int>(config.experts), 72,    1,
                 config,        static_cast<unsigned>(100 + i),   false, below(3) == 0};
    tokens += c.tokens;
    compared += check(c, kTwo);
  }
  CHECK(tokens > 100);
  CHECK(compared > tokens * 9 / 10);
}

TEST_CASE("route_many: a token's bits do not depend on its batch, nor on the trace") {
  const Case whole{65, 48, 264, 2, router(48, 6), 21};
  const Inputs in(whole);
  const Result all = run(whole, in, kTwo[0], 1);
  for (const int64_t token : {0, 33, 64}) {
    Case alone = whole;
    alone.tokens = 1;
    Inputs one = in;
    one.x.assign(in.x.begin() + token * whole.hidden, in.x.begin() + (token + 1) * whole.hidden);
    const Result single = run(alone, one, kTwo[1], 2, false);
    CHECK(std::memcmp(single.weights.data(), all.weights.data() + token * 6, 6 * sizeof(float)) == 0);
    CHECK(std::memcmp(single.ids.data(), all.ids.data() + token * 6, 6 * sizeof(int32_t)) == 0);
  }
}

TEST_CASE("route_many: refuses what a block cannot hold") {
  Gpu gpu;
  RouteManyArgs args;
  args.tokens = 1;
  args.hidden = 8;
  for (const RouterConfig& config : {router(1025, 8), router(64, 33), router(0, 1)}) {
    args.config = config;
    CHECK(launch_route_many(gpu.stream(), args) != 0);
  }
  CHECK(gpu.fault() == "");
}
