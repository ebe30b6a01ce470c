// Quantized matrices of the CPU layout as atoms of the CUDA kernels, code for code:
//
//   w8 -> W8    w4 -> W4    w3 -> W4 (u + 4)    t2, t5 -> T2    w1 -> T2 (2u)    f8 -> F8    w4c: MXFP4, NVFP4 -> Mxfp4
//   w2 -> T2: u - 2 = -((3 - u) - 1), so codes 3 - u, and scales and zero points negated
//   wn, part by part: its base as w2, a residual plane -> Signs
//
// NF4 has no atoms (its values need more than bf16), nor has wn as a whole, nor groups that are no multiple of the
// format's kGroupCols. Such matrices are decoded instead.
#pragma once

#include <vector>

#include "cuda/operands.h"
#include "formats/packed_matrix.h"

namespace smoe {

// How matrices of the same width are laid out as one. Everything is in bytes, so that a caller can lay out pieces.
constexpr int kWholeMatrix = -1, kNestedBase = 0;  // part 1 and further ones: residual planes
struct AtomPlan {
  int part = kWholeMatrix;
  cu::AtomFormat format = cu::AtomFormat::Bf16;
  cu::ScaleType scale_type = cu::ScaleType::F32;
  bool zeros = false;
  bool fold_mul = false;  // the matrices' factors differ: they are in the scales
  int group = 0;          // of AtomMatrix
  float mul = 1;
  int64_t cols = 0, padded_cols = 0;       // of the matrices; of the map, zeros past `cols`
  size_t atom_bytes = 0, scale_bytes = 0;  // of one row block; zero points take scale_bytes too
};

// For matrices of one width below each other, in a map of padded_cols >= cols columns, which is even. False: their
// codes have no atom format, or no common one. part: of bit-nested matrices; rows of those that have fewer planes are
// padding.
bool plan_atoms(const std::vector<const PackedMatrix*>& matrices, int64_t padded_cols, AtomPlan* plan,
                int part = kWholeMatrix);

// Where a row of a row block comes from; no matrix: padding, which is zero.
struct AtomRow {
  const PackedMatrix* matrix = nullptr;
  int64_t row = 0;
};

// Row j of block `block` of a plain matrix, and of gate and up by 8 + 8 rows.
AtomRow atom_row(const PackedMatrix& matrix, int64_t block, int j);
AtomRow atom_row(const PackedMatrix& gate, const PackedMatrix& up, int64_t block, int j);

// Lays out one row block of 16 rows. atoms, scales, zeros (null where the plan has none): atom_bytes and scale_bytes
// of the block. `scratch` is resized as needed and may be used again.
void pack_atom_block(const AtomPlan& plan, const AtomRow* rows, void* atoms, void* scales, void* zeros,
                     std::vector<unsigned char>* scratch);

}  // namespace smoe
