// How the rows of one group are cut into blocks for the tile kernels, packed, and handed to them.
#pragma once

#include <cstdint>

#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"

namespace smoe {

// Upper bound of KernelTable::max_rows over all instruction sets; sizes tile results on the stack.
constexpr int kMaxTileRows = 16;

// Blocks of at most max_rows rows, as even as possible: 13 rows of at most 12 are 7 + 6, because a block of one row
// costs nearly as much weight traffic as a full one.
struct RowBlocks {
  int64_t rows;
  int max_rows;

  int64_t count() const { return (rows + max_rows - 1) / max_rows; }
  int64_t begin(int64_t block) const {
    const int64_t base = rows / count(), longer = rows % count();
    return block * base + (block < longer ? block : longer);
  }
  int size(int64_t block) const { return static_cast<int>(begin(block + 1) - begin(block)); }
};

// Activation rows as a matrix wants them packed. A block of m rows is m * row_bytes: the packed elements and, for Int8,
// [groups][m] scales and [groups][m] sums behind them.
struct RowLayout {
  RowKind kind = RowKind::F32;
  int64_t cols = 0, padded = 0;
  int64_t group = 0, groups = 0;  // Int8

  bool operator==(const RowLayout& other) const {
    return kind == other.kind && cols == other.cols && padded == other.padded && group == other.group;
  }
  size_t element_bytes() const { return kind == RowKind::F32 ? 4 : kind == RowKind::Bf16 ? 2 : 1; }
  size_t row_bytes() const { return static_cast<size_t>(padded) * element_bytes() + static_cast<size_t>(groups) * 8; }
};

// f32 activations for f32 weights and in Precision::Exact; else bf16 ones for bf16, w4c and f8, and int8 ones for
// integers.
RowLayout row_layout(const PackedMatrix& matrix, Precision precision);
void pack_rows(const KernelTable& kernels, const RowLayout& layout, const float* const* rows, const float* scale, int m,
               void* out);

// Bit-nested matrices (wn) may be read in part: the base and the first `planes` of their residual planes.
constexpr int kAllPlanes = 255;

// The call for one block of packed rows; tiles are set per call.
TileArgs block_args(const PackedMatrix& matrix, const RowLayout& layout, const void* block, int m, float* out,
                    int planes = kAllPlanes);
// Runs tile `first` of a and, unless b is null, tile `second` of b, results side by side. The two matrices have the
// same format and row layout; what else they may differ in takes two calls.
void run_tile_pair(TileFn tile, const PackedMatrix& a, int64_t first, const PackedMatrix* b, int64_t second,
                   TileArgs args, int planes = kAllPlanes);

inline TileFn tile_function(const KernelTable& kernels, const PackedMatrix& matrix, const RowLayout& layout) {
  return kernels.tile[static_cast<int>(matrix.format)][static_cast<int>(layout.kind)];
}

}  // namespace smoe
