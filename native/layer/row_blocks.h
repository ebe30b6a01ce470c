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

inline TileFn tile_function(const KernelTable& kernels, WeightFormat format, bool bf16_rows) {
  if (format == WeightFormat::F32) return kernels.tile_f32;
  return bf16_rows ? kernels.tile_bf16_fast : kernels.tile_bf16_exact;
}

// K as the tile kernels see it, and the bytes of one packed element.
inline int64_t padded_cols(const PackedMatrix& matrix) { return matrix.chunks() * matrix.chunk_cols(); }
inline size_t packed_element_bytes(bool bf16_rows) { return bf16_rows ? 2 : 4; }

inline void pack_rows(const KernelTable& kernels, const float* const* rows, const float* scale, int m, int64_t k,
                      int64_t padded_k, bool bf16_rows, void* out) {
  if (bf16_rows) {
    kernels.pack_rows_bf16(rows, scale, m, k, padded_k, static_cast<uint32_t*>(out));
  } else {
    kernels.pack_rows_f32(rows, scale, m, k, padded_k, static_cast<float*>(out));
  }
}

}  // namespace smoe
