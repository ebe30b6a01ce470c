#include "kernels/dispatch/dispatch.h"

#include <doctest/doctest.h>

#include <vector>

#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

void check(const std::vector<int32_t>& ids, int64_t tokens, int slots, int64_t experts) {
  const size_t total = static_cast<size_t>(tokens * slots);
  Guarded<int32_t> offsets(experts + 1, -7), token(total, -7), slot(total, -7), position(total, -7);
  Dispatch out{-1, offsets.data(), token.data(), slot.data(), position.data()};
  dispatch(ids.data(), tokens, slots, experts, &out);

  // brute force: every expert in turn, tokens in order, slots in order
  int32_t next = 0;
  for (int64_t e = 0; e < experts; ++e) {
    CHECK(offsets[e] == next);
    for (int64_t i = 0; i < static_cast<int64_t>(total); ++i) {
      if (ids[i] != e) continue;
      CHECK(token[next] == i / slots);
      CHECK(slot[next] == i % slots);
      CHECK(position[i] == next);
      ++next;
    }
  }
  CHECK(offsets[experts] == next);
  CHECK(out.pairs == next);
  for (size_t i = 0; i < total; ++i) {
    if (ids[i] < 0 || ids[i] >= experts) CHECK(position[i] == -1);
  }
  for (size_t i = static_cast<size_t>(next); i < total; ++i) CHECK(token[i] == -7);  // nothing past the pairs
}

}  // namespace

TEST_CASE("dispatch against brute force") {
  Random random(31);
  for (int trial = 0; trial < 100; ++trial) {
    const int64_t tokens = random.below(40), experts = 1 + random.below(70);
    const int slots = 1 + random.below(8);
    std::vector<int32_t> ids(static_cast<size_t>(tokens * slots));
    for (int32_t& id : ids) id = random.below(static_cast<int>(experts) + 1) - 1;
    check(ids, tokens, slots, experts);
  }
}

TEST_CASE("dispatch at its edges: no token, nothing used, one expert, ids out of range") {
  check({}, 0, 2, 5);
  check(std::vector<int32_t>(12, -1), 6, 2, 5);
  for (int32_t e : {0, 3, 4}) check(std::vector<int32_t>(12, e), 6, 2, 5);
  check(std::vector<int32_t>(6, 0), 6, 1, 1);
  check({0, 5, -3, 4, INT32_MAX, INT32_MIN}, 3, 2, 5);
}
