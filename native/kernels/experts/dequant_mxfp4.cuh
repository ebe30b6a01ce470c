#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_mxfp4.h"

namespace smoe::cu {

// Sign and magnitude at bits 15 and 8..6 of a bf16 read 2^-126 too small (biases 1 and 127), the subnormal 0.5
// included: one multiplication, by 0x7E80, makes them exact. -0 is added so that signs of zeros stay.
struct Mxfp4Codes : Mxfp4Atoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    const uint32_t word = atom.x[step], mask = 0x81C081C0u;
    uint32_t last = lop3<0xEA>(word >> 3, 0x01800180u, (word << 1) & 0x80008000u);  // (a & b) | c
    last = lop3<0xEA>(word >> 7, 0x00400040u, last);
    const uint32_t bits[4] = {word & mask, (word << 3) & mask, (word << 6) & mask, last};
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = fma_bf16x2(bits[j], 0x7E807E80u, 0x80008000u);
  }
};

}  // namespace smoe::cu
