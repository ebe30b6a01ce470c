// Sizes of tiles that kernels are compiled for, and the choice among them.
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

// A number known while compiling, as an argument.
template <int n>
struct Count {
  static constexpr int value = n;
};

// Kernels of few rows: launch(Count<NT>{}), NT the least of the sizes, which ascend, that is enough for `tiles`
// token tiles.
template <int NT, int... larger, class Launch>
int with_tiles(int tiles, Launch launch) {
  if constexpr (sizeof...(larger) > 0) {
    if (tiles > NT) return with_tiles<larger...>(tiles, launch);
  }
  return launch(Count<NT>{});
}

// The sizes there are: for x of one part every size; in three parts, exactness is worth one kernel for decoding and one
// for the rest; with residual planes, which take long to compile, a size less.
template <int XP, bool nested, class Launch>
int with_tiles_of(int tiles, Launch launch) {
  if constexpr (XP != 1) {
    return with_tiles<1, 8>(tiles, launch);
  } else if constexpr (nested) {
    return with_tiles<1, 4, 8>(tiles, launch);
  } else {
    return with_tiles<1, 2, 4, 8>(tiles, launch);
  }
}

// Kernels of many rows: how many of its TN rows a tile multiplies of which `live` are real, all or half; and
// visit(Count<so many>{}).
template <int TN>
SMOE_DEVICE int live_rows(int live) {
  return live * 2 <= TN ? TN / 2 : TN;
}
template <int TN, class Visit>
SMOE_DEVICE void with_rows(int live, Visit visit) {
  if (live_rows<TN>(live) < TN) return visit(Count<TN / 2>{});
  visit(Count<TN>{});
}

}  // namespace smoe::cu
