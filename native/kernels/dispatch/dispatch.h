// Dispatch: groups assignments by expert with a stable counting sort, so that the order inside an expert is the
// order of tokens, then of slots, on every run.
#pragma once

#include <cstdint>

namespace smoe {

struct Dispatch {
  int64_t pairs = 0;            // assignments with id >= 0
  int32_t* offsets = nullptr;   // [E + 1]
  int32_t* token = nullptr;     // [pairs]  token of a sorted position
  int32_t* slot = nullptr;      // [pairs]  its slot
  int32_t* position = nullptr;  // [T, K]   sorted position of an assignment, -1 for unused slots
};

// ids [tokens, slots] in [-1, experts), anything else counts as -1; tokens*slots below 2^31. All pointers of `out` are
// the caller's; token and slot need room for tokens*slots.
void dispatch(const int32_t* ids, int64_t tokens, int slots, int64_t experts, Dispatch* out);

}  // namespace smoe
