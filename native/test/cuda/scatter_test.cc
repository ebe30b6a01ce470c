// P2 against dispatch.h, whose order of rows it shares.
#include <algorithm>

#include "gpu.h"
#include "kernels/dispatch/dispatch.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int tokens, experts, slots;
  bool unused = false, one_expert = false;
};

// Distinct experts per token in random order; slots may be unused, by -1 or by an id out of range.
std::vector<int32_t> assignments(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids, all(static_cast<size_t>(c.experts));
  for (int t = 0; t < c.tokens; ++t) {
    for (int e = 0; e < c.experts; ++e) all[static_cast<size_t>(e)] = e;
    std::shuffle(all.begin(), all.end(), random);
    for (int j = 0; j < c.slots; ++j) {
      int id = c.one_expert ? (j == 0 ? c.experts - 1 : -1) : all[static_cast<size_t>(j)];
      if (c.unused && random() % 4 == 0) id = random() % 2 == 0 ? -1 : c.experts;
      ids.push_back(id);
    }
  }
  return ids;
}

void check(const Case& c, const std::vector<Run>& runs) {
  CAPTURE(c.tokens);
  CAPTURE(c.experts);
  CAPTURE(c.slots);
  const auto size = [](int n) { return static_cast<size_t>(n); };
  const auto ids = assignments(c, 5u + static_cast<unsigned>(c.tokens));
  const size_t pairs = ids.size(), experts = size(c.experts);
  const auto weights = random_floats(pairs, 9);
  std::vector<int32_t> offset(experts + 1), token(pairs + 1), slot(pairs + 1), position(pairs + 1);
  Dispatch expected{0, offset.data(), token.data(), slot.data(), position.data()};
  dispatch(ids.data(), c.tokens, c.slots, c.experts, &expected);
  position.resize(pairs);
  const size_t used = static_cast<size_t>(expected.pairs), rows = (size(c.tokens) + 31) / 32;
  for (size_t i = 0; i < runs.size(); ++i) {
    Gpu gpu(runs[i], i + 1);
    auto given = gpu.array(ids, "ids");
    auto given_weights = gpu.array(weights, "weights");
    auto histogram = gpu.array<int32_t>(rows * experts, "histogram");
    // Exactly the used rows: writing past them is a fault, leaving one out shows below.
    auto to_offset = gpu.array<int32_t>(experts + 1, "offset"), to_token = gpu.array<int32_t>(used, "token");
    auto to_position = gpu.array<int32_t>(pairs, "position");
    auto row_weight = gpu.array<float>(used, "row weight");
    auto counts = gpu.array(std::vector<uint64_t>(experts, uint64_t{1} << 40), "expert counts");
    REQUIRE(launch_histogram(gpu.stream(), {given.data(), c.tokens, c.slots, c.experts, histogram.data()}) == 0);
    ScatterArgs args;
    args.ids = given.data();
    args.weights = given_weights.data();
    args.histogram = histogram.data();
    args.tokens = c.tokens;
    args.slots = c.slots;
    args.experts = c.experts;
    args.plan = {to_offset.data(), to_token.data(), to_position.data(), row_weight.data(),
                 i % 2 == 0 ? counts.data() : nullptr};
    REQUIRE(launch_scatter(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    REQUIRE(histogram.unwritten_bytes() + to_offset.unwritten_bytes() + to_token.unwritten_bytes() +
                to_position.unwritten_bytes() + row_weight.unwritten_bytes() ==
            0);
    REQUIRE(to_offset.download() == offset);
    REQUIRE(to_position.download() == position);
    const auto got_token = to_token.download();
    const auto got_weight = row_weight.download();
    const auto got_counts = counts.download();
    for (size_t row = 0; row < used; ++row) {
      REQUIRE(got_token[row] == token[row]);
      REQUIRE(got_weight[row] == weights[size(token[row]) * size(c.slots) + size(slot[row])]);
    }
    for (size_t e = 0; e < experts; ++e) {
      const auto count = i % 2 == 0 ? static_cast<uint64_t>(offset[e + 1] - offset[e]) : 0;
      REQUIRE(got_counts[e] == (uint64_t{1} << 40) + count);
    }
    const auto table = histogram.download();
    for (size_t row = 0; row < rows; ++row) {
      std::vector<int32_t> count(experts, 0);
      for (size_t p = row * 32 * size(c.slots); p < std::min(pairs, (row + 1) * 32 * size(c.slots)); ++p) {
        if (ids[p] >= 0 && ids[p] < c.experts) ++count[size(ids[p])];
      }
      REQUIRE(std::equal(count.begin(), count.end(), table.begin() + static_cast<std::ptrdiff_t>(row * experts)));
    }
  }
}

const std::vector<Run> kTwo = {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Descending},
                               {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};

}  // namespace

TEST_CASE("scatter: token counts, in all schedules and orders") {
  for (const int tokens : {0, 1, 31, 32, 33, 65, 100}) check({tokens, 33, 4, true}, all_runs());
}

TEST_CASE("scatter: expert counts, and every expert of every token") {
  for (const int experts : {3, 8, 33, 64, 300}) {
    for (const int tokens : {0, 33, 65}) {
      check({tokens, experts, 3, tokens == 65}, kTwo);
      check({tokens, experts, experts, tokens == 33}, kTwo);
    }
  }
}

TEST_CASE("scatter: one expert with everything, nothing at all, more rows than threads per expert") {
  check({100, 8, 2, false, true}, all_runs());
  check({65, 1, 1}, kTwo);
  check({32 * 70, 5, 1}, kTwo);
  Case none{40, 8, 2};
  none.one_expert = none.unused = true;
  check(none, kTwo);
}
