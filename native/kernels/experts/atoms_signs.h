// Atoms of one-bit codes: 16 rows x 256 columns. Word s of a lane is columns [64 s, 64 s + 64), its halves the even and
// the odd ones; bit 4 i + j of a half is register a_j of the i-th k16 step of those columns.
#pragma once

#include "kernels/experts/code_place.h"

namespace smoe::cu {

// No code is zero. Rows past the matrix have scale 0, and columns past it multiply zeros.
struct SignAtoms {
  static constexpr AtomFormat kFormat = AtomFormat::Signs;
  static constexpr int kCols = 256, kBits = 1, kZeroCode = 0, kGroupCols = 32;

  SMOE_HD static constexpr CodePlace place(int row, int col) {
    const FragmentPlace at = a16_place(row, col & 15);
    return {at.lane, col >> 6, 4 * ((col & 63) >> 4) + at.reg + 16 * at.half};
  }
  SMOE_HD static constexpr uint32_t spread(uint32_t code, int slot) { return code << slot; }
};

}  // namespace smoe::cu
