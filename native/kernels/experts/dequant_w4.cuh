#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_w4.h"

namespace smoe::cu {

// 0x4300 is 128 in bf16, whose last place is 1: with a code in the low bits it is 128 + u, and u - 8 after one exact
// fma.
struct W4Codes : W4Atoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t biased = lop3<0xEA>(atom.x[step] >> (4 * j), 0x000F000Fu, 0x43004300u);  // (a & b) | c
      a[j] = fma_bf16x2(biased, 0x3F803F80u, 0xC308C308u);                                    // * 1 - 136
    }
  }
};

}  // namespace smoe::cu
