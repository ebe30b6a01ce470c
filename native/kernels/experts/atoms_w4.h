// Atoms of 4-bit integers: 16 rows x 64 columns. Word s of a lane is its k16 step s, nibbles j and j + 4 the halves of
// register a_j: a mask after a shift leaves both where their values are read (dequant_w4.cuh).
#pragma once

#include "kernels/experts/code_place.h"

namespace smoe::cu {

struct W4Atoms {
  static constexpr AtomFormat kFormat = AtomFormat::W4;
  static constexpr int kCols = 64, kBits = 4, kZeroCode = 8, kGroupCols = 32;

  SMOE_HD static constexpr CodePlace place(int row, int col) {
    const FragmentPlace at = a16_place(row, col % 16);
    return {at.lane, col / 16, 4 * at.reg + 16 * at.half};
  }
  SMOE_HD static constexpr uint32_t spread(uint32_t code, int slot) { return code << slot; }
};

}  // namespace smoe::cu
