#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_f8.h"
#include "kernels/experts/dequant_w8.cuh"

namespace smoe::cu {

// The magnitude's seven bits under the exponent of a bf16 read 2^-120 too small (biases 7 and 127), subnormals
// included: one multiplication, by 0x7B80, makes them exact. -0 is added so that signs of zeros stay.
struct F8Codes : F8Atoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t pair = byte_pair(atom, step, j);
      const uint32_t bits = lop3<0xEA>(pair, 0x80008000u, (pair >> 4) & 0x07F007F0u);  // (a & b) | c
      a[j] = fma_bf16x2(bits, 0x7B807B80u, 0x80008000u);
    }
  }
};

}  // namespace smoe::cu
