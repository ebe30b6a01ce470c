#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_w8.h"

namespace smoe::cu {

// Bytes i and i + 2 of a word, columns 2t + 8i and 2t + 8i + 1 of k16 step `step`, each in both bytes of its half. j:
// of register a_j.
SMOE_DEVICE uint32_t byte_pair(const U32x4& atom, int step, int j) {
  const uint32_t word = atom.x[(j & 1) + 2 * step], i = static_cast<uint32_t>(j >> 1);
  return prmt(word, word, i * 0x0011 + (i + 2) * 0x1100);
}

// bf16 has 7 bits behind the point: 128 + the low seven, then less 128 where the eighth is set and less 256 where it is
// not, which are 0xC300 and 0xC380. The sum is u - 128, exactly.
struct W8Codes : W8Atoms {
  SMOE_DEVICE static void fragment(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const uint32_t pair = byte_pair(atom, step, j);
      const uint32_t biased = lop3<0xEA>(pair, 0x007F007Fu, 0x43004300u);  // (a & b) | c
      const uint32_t offset = lop3<0x6A>(pair, 0x00800080u, 0xC380C380u);  // (a & b) ^ c
      a[j] = fma_bf16x2(biased, 0x3F803F80u, offset);
    }
  }
};

}  // namespace smoe::cu
