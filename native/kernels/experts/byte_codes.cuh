// Codes of integer formats as the A registers of a byte mma, unsigned as they are stored: at most a shift and a mask
// per register (specs/quantization.md 3.5). The format's zero point is folded in as -kZeroCode times the sum of the
// activations.
#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms_t2.h"
#include "kernels/experts/atoms_w4.h"
#include "kernels/experts/atoms_w8.h"

namespace smoe::cu {

// bytes(atom, step, a): the k32 step `step` of an atom.
struct W8Bytes : W8Atoms {
  SMOE_DEVICE static void bytes(const U32x4& atom, int, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = atom.x[j];
  }
};

struct W4Bytes : W4Atoms {
  SMOE_DEVICE static void bytes(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = (atom.x[2 * step + (j >> 1)] >> (4 * (j & 1))) & 0x0F0F0F0Fu;
  }
};

struct T2Bytes : T2Atoms {
  SMOE_DEVICE static void bytes(const U32x4& atom, int step, uint32_t (&a)[4]) {
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = (atom.x[step] >> (2 * j)) & 0x03030303u;
  }
};

// visit(codes) for the formats of integers; nothing for others.
template <class Visit>
SMOE_DEVICE void with_bytes(AtomFormat format, Visit visit) {
  switch (format) {
    case AtomFormat::W8:
      return visit(W8Bytes{});
    case AtomFormat::W4:
      return visit(W4Bytes{});
    case AtomFormat::T2:
      return visit(T2Bytes{});
    default:
      return;
  }
}

SMOE_DEVICE int zero_code(AtomFormat format) {
  return format == AtomFormat::W8   ? W8Atoms::kZeroCode
         : format == AtomFormat::W4 ? W4Atoms::kZeroCode
                                    : T2Atoms::kZeroCode;
}

}  // namespace smoe::cu
