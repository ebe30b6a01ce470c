// The residual planes of bit-nested matrices, which kernels with a template argument `nested` add to the base.
#pragma once

#include "kernels/experts/active_list.cuh"
#include "kernels/experts/multiply_rows.cuh"

namespace smoe::cu {

// Of the matrix of an expert, those that are read.
SMOE_DEVICE int planes_read(const AtomMatrix* matrix, const NestedRead& read, int expert) {
  const int all = ldg(&matrix->plane_count), most = read.most != nullptr ? ldg(read.most + expert) : all;
  return most < all ? most : all;
}
// From 1 on.
SMOE_DEVICE const AtomMatrix* plane_of(const AtomMatrix* matrix, int plane) { return ldg(&matrix->planes) + plane - 1; }

// The base of an expert's matrix, then its planes (ItemRuns).
struct PlaneRuns {
  const AtomMatrix* weights;
  NestedRead read;
  int plane;

  SMOE_DEVICE bool next(ActiveExpert* e) {
    const AtomMatrix* const matrix = weights + e->expert;
    if (plane > 0) {
      e->atoms = ldg(&plane_of(matrix, plane)->atoms);
      e->cols = SignAtoms::kCols;
    }
    if (++plane <= planes_read(matrix, read, e->expert)) return false;
    plane = 0;
    return true;
  }
};

template <bool nested>
SMOE_DEVICE auto part_runs(const AtomMatrix* weights, const NestedRead& read) {
  if constexpr (nested) {
    return PlaneRuns{weights, read, 0};
  } else {
    return NoPlanes{};
  }
}

// acc[tile] += a slice of the planes of a row block times the rows, plane after plane.
template <int NT, int XP, class Stream>
SMOE_DEVICE void multiply_planes(Stream& stream, const AtomMatrix* matrix, int planes, int64_t block, int slice,
                                 int slices, const TokenRows<NT>& rows, const Planes& x, int64_t k_size,
                                 float (&acc)[NT][4]) {
  const KSlice part = k_slice(k_size, SignAtoms::kCols, slice, slices);
  SMOE_UNROLL1
  for (int plane = 1; plane <= planes; ++plane) {
    multiply_codes<SignCodes, NT, XP>(stream, load_matrix<false>(plane_of(matrix, plane)), block, part, rows,
                                      XP == 1 ? 0 : x.step, k_size, acc);
  }
}

}  // namespace smoe::cu
