// Where a code lies in a 512-byte atom of 32 lanes x 4 words. A file atoms_*.h per format says
//   kCols       columns of an atom
//   kZeroCode   the code of zero, which pads rows and columns
//   kGroupCols  columns that always share a scale: groups are multiples of it
//   place()     of the code of (row, col): lane, word, and a slot of the word
//   spread()    the bits of the word that a code in this slot takes
#pragma once

#include "cuda/fragments.h"
#include "cuda/operands.h"

namespace smoe::cu {

struct CodePlace {
  int lane, word, slot;
};

// The inverse of a16_element.
struct FragmentPlace {
  int lane, reg, half;
};
SMOE_HD constexpr FragmentPlace a16_place(int row, int col) {
  return {4 * (row & 7) + ((col & 7) >> 1), (row >> 3) + 2 * (col >> 3), col & 1};
}

// Of every atom format; bf16 included.
SMOE_HD constexpr int atom_cols(AtomFormat format) {
  switch (format) {
    case AtomFormat::W8:
    case AtomFormat::F8:
      return 32;
    case AtomFormat::W4:
    case AtomFormat::Mxfp4:
      return 64;
    case AtomFormat::T2:
      return 128;
    case AtomFormat::Signs:
      return 256;
    default:
      return 16;
  }
}

}  // namespace smoe::cu
