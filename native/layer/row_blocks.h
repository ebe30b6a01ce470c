// How the rows of one group are cut into blocks for the tile kernels, and packed.
#pragma once

#include <cstdint>

#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"

namespace smoe {

// Upper bound of KernelTable::max_rows over all instruction sets; sizes tile results on the stack.
constexpr int kMaxTileRows = 16;

// Blocks of at most max_rows rows, as even as possible: 13 rows of at most 12 are 7 + 6, because a block of one row
// costs nearly as much weight traffic as a full one.
class RowBlocks {
 public:
  RowBlocks(int64_t rows, int max_rows)
      : count_((rows + max_rows - 1) / max_rows),
        base_(count_ > 0 ? rows / count_ : 0),
        longer_(rows - base_ * count_) {}

  int64_t count() const { return count_; }
  int64_t begin(int64_t block) const { return block * base_ + (block < longer_ ? block : longer_); }
  int size(int64_t block) const { return static_cast<int>(base_ + (block < longer_ ? 1 : 0)); }

 private:
  int64_t count_, base_, longer_;
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

}  // namespace smoe
