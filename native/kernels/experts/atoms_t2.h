// Atoms of 2-bit codes: 16 rows x 128 columns. Word s of a lane is columns [32 s, 32 s + 32), its halves the even and
// the odd ones; code j of a half is row g (j even) or g + 8 (j odd), column 2t + 16 (j >> 1 & 1) + 8 (j >> 2) + half: a
// shift by 2j and a mask leave register a_j of a byte mma (j < 4) in the order pi of K.
#pragma once

#include "kernels/experts/code_place.h"

namespace smoe::cu {

struct T2Atoms {
  static constexpr AtomFormat kFormat = AtomFormat::T2;
  static constexpr int kCols = 128, kBits = 2, kZeroCode = 1, kGroupCols = 32;

  SMOE_HD static constexpr CodePlace place(int row, int col) {
    const int code = (row >> 3) + 2 * ((col & 31) >> 4) + 4 * ((col & 15) >> 3);
    return {4 * (row & 7) + ((col & 7) >> 1), col >> 5, 2 * code + 16 * (col & 1)};
  }
  SMOE_HD static constexpr uint32_t spread(uint32_t code, int slot) { return code << slot; }
};

}  // namespace smoe::cu
