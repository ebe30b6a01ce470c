#include "kernels/dispatch/dispatch.h"

namespace smoe {

// A counting sort that uses offsets three times: counts, then the next free position of each expert, and then, each
// cursor having arrived at its expert's end (the next one's start), the offsets themselves, one place further up.
void dispatch(const int32_t* ids, int64_t tokens, int slots, int64_t experts, Dispatch* out) {
  const int64_t total = tokens * slots;
  int32_t* const cursor = out->offsets;
  for (int64_t e = 0; e <= experts; ++e) cursor[e] = 0;
  for (int64_t i = 0; i < total; ++i) {
    if (ids[i] >= 0 && ids[i] < experts) ++cursor[ids[i]];
  }
  int32_t start = 0;
  for (int64_t e = 0; e <= experts; ++e) {
    const int32_t count = cursor[e];
    cursor[e] = start;
    start += count;
  }
  out->pairs = start;
  int64_t i = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t slot = 0; slot < slots; ++slot, ++i) {
      if (ids[i] < 0 || ids[i] >= experts) {
        out->position[i] = -1;
        continue;
      }
      const int32_t position = cursor[ids[i]]++;
      out->token[position] = static_cast<int32_t>(t);
      out->slot[position] = slot;
      out->position[i] = position;
    }
  }
  for (int64_t e = experts; e > 0; --e) cursor[e] = cursor[e - 1];
  cursor[0] = 0;
}

}  // namespace smoe
