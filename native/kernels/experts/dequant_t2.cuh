#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_t2.h"

namespace smoe::cu {

// Over 128 (0x4300, last place 1) a code in bits 2p.. is 128 + 4^p u; one exact fma with 4^-p makes it u - 1. Three
// codes come from each shift.
struct T2Codes : T2Atoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    const uint32_t scale[3] = {0x3F803F80u, 0x3E803E80u, 0x3D803D80u};   // 1, 1/4, 1/16
    const uint32_t offset[3] = {0xC301C301u, 0xC204C204u, 0xC110C110u};  // -129, -33, -9
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int code = (j & 1) + 2 * (step & 1) + 4 * (j >> 1), p = code % 3;
      const uint32_t biased = lop3<0xEA>(atom.x[step >> 1] >> (6 * (code / 3)), 0x00030003u << (2 * p), 0x43004300u);
      a[j] = fma_bf16x2(biased, scale[p], offset[p]);
    }
  }
};

}  // namespace smoe::cu
