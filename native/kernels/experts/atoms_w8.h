// Atoms of 8-bit integers: 16 rows x 32 columns. The words of a lane are its registers of a byte mma m16n8k32 in the
// order pi of K (cuda/fragments.h), so that int8 and bf16 activations can use one packing: byte i of words 0 and 1
// (rows g and g + 8) is column 2t + {0, 8, 1, 9}[i], of words 2 and 3 the same 16 columns on.
#pragma once

#include "kernels/experts/code_place.h"

namespace smoe::cu {

// Layout of one byte per element.
struct ByteAtoms {
  static constexpr int kCols = 32, kBits = 8, kGroupCols = 32;

  SMOE_HD static constexpr CodePlace place(int row, int col) {
    return {4 * (row & 7) + ((col & 7) >> 1), (row >> 3) + 2 * (col >> 4), 8 * ((col & 15) >> 3) + 16 * (col & 1)};
  }
  SMOE_HD static constexpr uint32_t spread(uint32_t code, int slot) { return code << slot; }
};

struct W8Atoms : ByteAtoms {
  static constexpr AtomFormat kFormat = AtomFormat::W8;
  static constexpr int kZeroCode = 128;
};

}  // namespace smoe::cu
