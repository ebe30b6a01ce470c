#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_signs.h"

namespace smoe::cu {

// A code becomes the sign of a bf16 one: bit p of either half of the word is moved to the top of its half, and all else
// is that of -1, whose sign a code of 1 takes away.
struct SignCodes : SignAtoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t moved = atom.x[step >> 2] << (15 - 4 * (step & 3) - j);
      a[j] = lop3<0x6A>(moved, 0x80008000u, 0xBF80BF80u);  // (moved & sign) ^ -1
    }
  }
};

}  // namespace smoe::cu
