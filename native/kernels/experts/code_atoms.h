// Packing of codes into atoms, pure: each code of a row block has its own bits of one word, and together they fill it.
#pragma once

#include "kernels/experts/atoms.h"
#include "kernels/experts/atoms_f8.h"
#include "kernels/experts/atoms_mxfp4.h"
#include "kernels/experts/atoms_signs.h"
#include "kernels/experts/atoms_t2.h"
#include "kernels/experts/atoms_w4.h"
#include "kernels/experts/atoms_w8.h"

namespace smoe::cu {

// visit(layout) with the layout of a format of codes; others: nothing, and false.
template <class Visit>
bool with_layout(AtomFormat format, Visit visit) {
  switch (format) {
    case AtomFormat::W8:
      visit(W8Atoms{});
      return true;
    case AtomFormat::W4:
      visit(W4Atoms{});
      return true;
    case AtomFormat::T2:
      visit(T2Atoms{});
      return true;
    case AtomFormat::F8:
      visit(F8Atoms{});
      return true;
    case AtomFormat::Mxfp4:
      visit(Mxfp4Atoms{});
      return true;
    case AtomFormat::Signs:
      visit(SignAtoms{});
      return true;
    default:
      return false;
  }
}

// Groups that scales are stored for: those of whole atoms, of which the last may lie past the matrix.
inline int64_t atom_groups(AtomFormat format, int64_t cols, int64_t group) {
  const int64_t padded = atoms_along(cols, atom_cols(format)) * atom_cols(format);
  return group > 0 ? (padded + group - 1) / group : 1;
}

// One row block. codes: 16 rows, each of whole atoms (padded with kZeroCode). out: 32 U32x4 per atom.
template <class Layout>
void pack_code_block(Layout, const uint8_t* const (&codes)[kAtomRows], int64_t cols, U32x4* out) {
  for (int64_t col0 = 0; col0 < cols; col0 += Layout::kCols, out += 32) {
    for (int lane = 0; lane < 32; ++lane) out[lane] = U32x4{};
    for (int row = 0; row < kAtomRows; ++row) {
      for (int col = 0; col < Layout::kCols; ++col) {
        const CodePlace at = Layout::place(row, col);
        out[at.lane].x[at.word] |= Layout::spread(codes[row][col0 + col], at.slot);
      }
    }
  }
}

}  // namespace smoe::cu
