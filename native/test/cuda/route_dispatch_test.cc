// K1 against the CPU backend: logits against double, then route_token() and dispatch() on the kernel's own logits, so
// that selection is compared exactly but for keys that the two exponentials round apart.
#include "kernels/route/route_dispatch.cuh"

#include "kernels/dispatch/dispatch.h"
#include "route_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

constexpr int kReplays = 2;                             // of every launch, as a graph would
constexpr uint64_t kCountedBefore = uint64_t{5} << 32;  // expert_counts is added to

struct Case {
  int tokens, experts, hidden;
  RouterConfig config;
  unsigned seed;
  bool bad_rows;  // NaN and infinity among the inputs
};

struct Result {
  std::vector<float> logits, weights;
  std::vector<int32_t> ids, count, offset, position;
  std::vector<uint64_t> mask, expert_counts;
};

template <class T>
std::vector<T> convert(const std::vector<float>& values) {
  std::vector<T> out;
  for (const float v : values) {
    if constexpr (sizeof(T) == 2) {
      out.push_back(to_bf16(v));
    } else {
      out.push_back(v);
    }
  }
  return out;
}

float widen(float v) { return v; }
float widen(bf16 v) { return to_float(v); }

template <class W>
struct Inputs {
  std::vector<W> w;
  std::vector<float> x, router_bias, select_bias;

  explicit Inputs(const Case& c) {
    const size_t e = static_cast<size_t>(c.experts), h = static_cast<size_t>(c.hidden);
    w = convert<W>(random_floats(e * h, c.seed, 1 / std::sqrt(static_cast<float>(h))));
    auto rows = random_floats(static_cast<size_t>(c.tokens) * h, c.seed + 1);
    if (c.bad_rows) {
      for (size_t i = 0; i < rows.size(); i += 3 * h) rows[i] = NAN;
    }
    x = std::move(rows);
    router_bias = random_floats(e, c.seed + 2, 0.1f);
    select_bias = random_floats(e, c.seed + 3, 0.1f);
  }
};

template <class W>
Result run(const Case& c, const Inputs<W>& in, const Run& mode, uint64_t seed = 1) {
  Gpu gpu(mode, seed);
  const size_t e = static_cast<size_t>(c.experts), t = static_cast<size_t>(c.tokens),
               k = static_cast<size_t>(c.config.k);
  const int splits = route_splits(c.experts, c.hidden);
  auto w = gpu.constant(in.w, "w");
  auto router_bias = gpu.constant(in.router_bias, "router bias"), select_bias = gpu.constant(in.select_bias, "select");
  auto x = gpu.array(in.x, "x");
  auto num_tokens = gpu.constant(std::vector<int32_t>{c.tokens}, "num_tokens");
  auto partials = gpu.array<float>(static_cast<size_t>(splits) * 64 * e, "partials");
  auto tickets = gpu.array(std::vector<uint32_t>(9, 0), "tickets");
  auto ids = gpu.array<int32_t>(t * k, "ids"), count = gpu.array<int32_t>(t, "count");
  auto offset = gpu.array<int32_t>(e + 1, "offset"), position = gpu.array<int32_t>(t * k, "position");
  auto row_weight = gpu.array<float>(t * k, "row weights"), weights = gpu.array<float>(t * k, "weights");
  auto logits = gpu.array<float>(t * e, "logits");
  auto mask = gpu.array<uint64_t>(e, "mask");
  auto expert_counts = gpu.array(std::vector<uint64_t>(e, kCountedBefore), "expert counts");
  RouteDispatchArgs args;
  args.x = x.data();
  args.w = w.data();
  args.w_f32 = sizeof(W) == 4;
  args.router_bias = router_bias.data();
  args.select_bias = select_bias.data();
  args.num_tokens = num_tokens.data();
  args.hidden = c.hidden;
  args.splits = splits;
  args.config = c.config;
  args.partials = partials.data();
  args.tickets = tickets.data();
  args.routing = {ids.data(), weights.data(), count.data()};
  args.logits = logits.data();
  args.plan = {mask.data(), offset.data(), position.data(), row_weight.data(), expert_counts.data()};
  for (int replay = 0; replay < kReplays; ++replay) REQUIRE(launch_route_dispatch(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  for (const uint32_t ticket : tickets.download()) REQUIRE(ticket == 0);
  REQUIRE(ids.unwritten_bytes() + weights.unwritten_bytes() + offset.unwritten_bytes() + mask.unwritten_bytes() +
              count.unwritten_bytes() + logits.unwritten_bytes() + position.unwritten_bytes() ==
          0);
  return {logits.download(), weights.download(),  ids.download(),  count.download(),
          offset.download(), position.download(), mask.download(), expert_counts.download()};
}

// f32 accumulation of `hidden` products in up to six parts each, warps and splits; parts below 2^-24 are left out.
template <class W>
void check_logits(const Case& c, const Inputs<W>& in, const Result& result) {
  const double bound = (c.hidden + 64) * std::ldexp(1.0, -24) + std::ldexp(1.0, -22);
  for (int t = 0; t < c.tokens; ++t) {
    if (c.bad_rows && t % 3 == 0) continue;
    for (int e = 0; e < c.experts; ++e) {
      double sum = in.router_bias[e], magnitude = std::fabs(sum);
      for (int h = 0; h < c.hidden; ++h) {
        const double product = static_cast<double>(widen(in.w[e * c.hidden + h])) * in.x[t * c.hidden + h];
        sum += product;
        magnitude += std::fabs(product);
      }
      REQUIRE(close(result.logits[t * c.experts + e], sum, bound * magnitude));
    }
  }
}

double key_of(const Case& c, const float* logits, const float* bias, int e) {
  double top = -INFINITY, sum = 0;
  for (int i = 0; i < c.experts; ++i) top = std::fmax(top, logits[i]);
  for (int i = 0; i < c.experts; ++i) sum += std::exp(logits[i] - top);
  double score = logits[e];
  if (c.config.score == ScoreFn::Softmax) score = std::exp(logits[e] - top) / sum;
  if (c.config.score == ScoreFn::Sigmoid) score = 1 / (1 + std::exp(-logits[e]));
  return score + (c.config.has_bias ? bias[e] : 0);
}

void check_routing(const Case& c, const std::vector<float>& select_bias, const Result& result) {
  const int k = c.config.k;
  std::vector<float> scratch(2 * static_cast<size_t>(c.experts)), weights(static_cast<size_t>(k));
  std::vector<int32_t> ids(static_cast<size_t>(k));
  for (int t = 0; t < c.tokens; ++t) {
    const float* const logits = result.logits.data() + t * c.experts;
    int32_t count = 0;
    route_token(*kernels(), c.config, logits, select_bias.data(), scratch.data(), ids.data(), weights.data(), &count);
    REQUIRE(result.count[t] == count);
    bool same = true;
    for (int j = 0; j < k; ++j) {
      const int got = result.ids[t * k + j];
      if (got == ids[j]) continue;
      same = false;
      // Different orders only where keys agree to rounding; group choices then differ too and are not comparable.
      REQUIRE((got >= 0 && ids[j] >= 0));
      const double a = key_of(c, logits, select_bias.data(), got), b = key_of(c, logits, select_bias.data(), ids[j]);
      REQUIRE(close(a, b, 1e-5 * (std::fabs(a) + std::fabs(b))));
    }
    for (int j = 0; j < k && same; ++j) {
      // Both sides: exponentials within 2^-22, a sum of up to E terms, f32 rounding of the quotient.
      REQUIRE(close(result.weights[t * k + j], weights[j], 4e-6 * std::fabs(weights[j]) + 1e-37));
    }
  }
}

void check_dispatch(const Case& c, const Result& result, int replays) {
  const int k = c.config.k;
  std::vector<int32_t> offsets(static_cast<size_t>(c.experts) + 1), token(static_cast<size_t>(c.tokens * k) + 1);
  std::vector<int32_t> slot(token.size()), position(token.size());
  Dispatch plan{0, offsets.data(), token.data(), slot.data(), position.data()};
  dispatch(result.ids.data(), c.tokens, k, c.experts, &plan);
  REQUIRE(result.offset == offsets);
  for (int i = 0; i < c.tokens * k; ++i) REQUIRE(result.position[i] == position[i]);
  for (int e = 0; e < c.experts; ++e) {
    uint64_t mask = 0;
    for (int i = offsets[e]; i < offsets[e + 1]; ++i) mask |= uint64_t{1} << token[i];
    REQUIRE(result.mask[e] == mask);
    REQUIRE(result.expert_counts[e] ==
            kCountedBefore + static_cast<uint64_t>(replays) * static_cast<uint64_t>(offsets[e + 1] - offsets[e]));
  }
}

template <class W>
Result check(const Case& c, const std::vector<Run>& modes) {
  CAPTURE(c.tokens);
  CAPTURE(c.experts);
  CAPTURE(c.hidden);
  CAPTURE(c.seed);
  const Inputs<W> in(c);
  Result first;
  for (size_t i = 0; i < modes.size(); ++i) {
    Result result = run(c, in, modes[i], i + 1);
    if (i == 0) {
      check_logits(c, in, result);
      check_routing(c, in.select_bias, result);
      check_dispatch(c, result, kReplays);
      first = std::move(result);
      continue;
    }
    REQUIRE(same_bits(first.logits, result.logits));
    REQUIRE(same_bits(first.weights, result.weights));
    REQUIRE(first.ids == result.ids);
    REQUIRE(first.mask == result.mask);
    REQUIRE(first.position == result.position);
  }
  return first;
}

}  // namespace

TEST_CASE("route_dispatch: token counts, in all schedules and orders") {
  for (const int tokens : {0, 1, 7, 8, 9, 16, 17, 63, 64}) {
    Case c{tokens, 40, 104, router(40, 4), 11u + static_cast<unsigned>(tokens), false};
    check<bf16>(c, tokens == 9 || tokens == 0 ? all_runs() : kTwo);
  }
}

TEST_CASE("route_dispatch: types of weights") {
  const Case c{9, 24, 328, router(24, 3), 5, false};
  check<bf16>(c, kTwo);
  check<float>(c, kTwo);
  check<float>({64, 16, 72, router(16, 2), 6, true}, kTwo);
}

TEST_CASE("route_dispatch: the router catalogue") {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int i = 0; i < 40; ++i) {
    const RouterConfig config = any_router(below);
    if (!validate(config).ok()) continue;
    CAPTURE(i);
    check<bf16>(
        {1 + below(12), static_cast<int>(config.experts), 40, config, static_cast<unsigned>(100 + i), below(3) == 0},
        kTwo);
  }
}

TEST_CASE("route_dispatch: many experts, all experts, one expert") {
  check<bf16>({5, 1024, 64, router(1024, 32), 1, false}, kTwo);
  check<bf16>({9, 16, 64, router(16, 16), 2, false}, kTwo);
  check<bf16>({3, 1, 64, router(1, 1), 3, false}, kTwo);
}

TEST_CASE("route_dispatch: a token's bits do not depend on its batch") {
  const Case whole{64, 48, 264, router(48, 6), 21, false};
  const Inputs<bf16> in(whole);
  const Result all = run(whole, in, kTwo[0]);
  for (const int token : {0, 5, 8, 37, 63}) {
    Case alone = whole;
    alone.tokens = 1;
    Inputs<bf16> one = in;
    one.x.assign(in.x.begin() + token * whole.hidden, in.x.begin() + (token + 1) * whole.hidden);
    const Result single = run(alone, one, kTwo[1]);
    CHECK(std::memcmp(single.logits.data(), all.logits.data() + token * 48, 48 * sizeof(float)) == 0);
    CHECK(std::memcmp(single.weights.data(), all.weights.data() + token * 6, 6 * sizeof(float)) == 0);
    CHECK(std::memcmp(single.ids.data(), all.ids.data() + token * 6, 6 * sizeof(int32_t)) == 0);
  }
}

TEST_CASE("dispatch of given routes") {
  std::mt19937 random(3);
  for (const Run& mode : all_runs()) {
    for (const int tokens : {0, 1, 33, 64}) {
      const int experts = 70, slots = 5;
      std::vector<int32_t> ids;
      for (int t = 0; t < tokens; ++t) {
        // distinct ids, some slots unused or out of range
        const int first = static_cast<int>(random() % 70);
        for (int j = 0; j < slots; ++j)
          ids.push_back(j == 3 ? -1 : j == 4 && t % 2 == 0 ? 1000 : (first + 7 * j) % experts);
      }
      Gpu gpu(mode);
      const size_t e = experts;
      auto given = gpu.array(ids, "ids"), count = gpu.array(std::vector<int32_t>{tokens}, "num_tokens");
      auto offset = gpu.array<int32_t>(e + 1, "offset"), position = gpu.array<int32_t>(ids.size(), "position");
      auto mask = gpu.array<uint64_t>(e, "mask");
      auto expert_counts = gpu.array(std::vector<uint64_t>(e, kCountedBefore), "expert counts");
      const auto weights = random_floats(ids.size(), 9);
      auto given_weights = gpu.array(weights, "weights"), row_weight = gpu.array<float>(ids.size(), "row weights");
      DispatchGivenArgs args;
      args.ids = given.data();
      args.weights = given_weights.data();
      args.num_tokens = count.data();
      args.slots = slots;
      args.experts = experts;
      args.plan = {mask.data(), offset.data(), position.data(), row_weight.data(), expert_counts.data()};
      REQUIRE(launch_dispatch_given(gpu.stream(), args) == 0);
      REQUIRE(gpu.fault() == "");
      Result result{};
      result.ids = ids;
      result.offset = offset.download();
      result.position = position.download();
      result.mask = mask.download();
      result.expert_counts = expert_counts.download();
      const auto rows = row_weight.download();
      for (size_t i = 0; i < ids.size(); ++i) {
        if (result.position[i] >= 0) REQUIRE(rows[static_cast<size_t>(result.position[i])] == weights[i]);
      }
      check_dispatch({tokens, experts, 0, router(experts, slots), 0, false}, result, 1);
    }
  }
}

TEST_CASE("what K1 takes") {
  CHECK(route_fits(router(1024, 32), 64));
  CHECK(!route_fits(router(1025, 8), 64));
  CHECK(!route_fits(router(64, 33), 64));
  CHECK(!route_fits(router(64, 8), 60));
  // About 128 blocks for the usual models, and never a warp without a chunk of K for every split.
  CHECK(route_blocks(128, route_splits(128, 2048)) == 64);
  CHECK(route_blocks(256, route_splits(256, 7168)) == 128);
  CHECK(route_splits(8, 64) == 1);
}
