// Atoms of E2M1 floats: 16 rows x 64 columns, word s of a lane its k16 step s, each half of the word holding one half
// of the registers a0..a3. Within a half the bits are placed so that a shift and one mask leave sign and magnitude of
// a_j where a bf16 has them, bits 15 and 8..6 (dequant_mxfp4.cuh):
//   a0: sign 15, magnitude 8..6    a1: 12, 5..3    a2: 9, 2..0    a3, in what is left: 14; 11, 10 and 13
#pragma once

#include "kernels/experts/code_place.h"

namespace smoe::cu {

struct Mxfp4Atoms {
  static constexpr AtomFormat kFormat = AtomFormat::Mxfp4;
  static constexpr int kCols = 64, kBits = 4, kZeroCode = 0, kGroupCols = 16;

  SMOE_HD static constexpr CodePlace place(int row, int col) {
    const FragmentPlace at = a16_place(row, col % 16);
    return {at.lane, col / 16, at.reg + 4 * at.half};
  }
  SMOE_HD static constexpr uint32_t spread(uint32_t code, int slot) {
    const uint32_t sign = code >> 3, exponent = (code >> 1) & 3, fraction = code & 1;
    const int reg = slot & 3;
    const uint32_t bits =
        reg < 3 ? (sign << 15 | (code & 7) << 6) >> (3 * reg) : sign << 14 | fraction << 13 | exponent << 10;
    return bits << (16 * (slot >> 2));
  }
};

}  // namespace smoe::cu
