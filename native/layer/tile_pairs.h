// Tiles of one matrix, or of two side by side, times blocks of packed rows: what calls of a tile kernel have in common.
#pragma once

#include <cstdint>

#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"
#include "layer/row_blocks.h"

namespace smoe {

// The sizes of tiles and planes follow from divisions, a dozen per tile, which cost an eighth of a small tile's time
// (bench/NOTES.md). They are made here, once for a work item.
class TilePairs {
 public:
  // Results go to `out` [m][kOutStride]: of `a` from column 0 on, of `b` from kTileRows on. b may be a, or null; it has
  // the format and row layout of a.
  TilePairs(const KernelTable& kernels, const RowLayout& layout, const PackedMatrix& a, const PackedMatrix* b,
            float* out, int planes = kAllPlanes);

  // The rows that are multiplied from now on: a block of m, as pack_rows() leaves them.
  void set_rows(const void* block, int m);
  // Tile `first` of a, and tile `second` of b unless it is negative.
  void run(int64_t first, int64_t second = -1);

 private:
  // Where the tiles of one matrix lie, and what TileArgs says once for both tiles of a pair.
  struct Tiles {
    const unsigned char* w = nullptr;
    const unsigned char* s = nullptr;
    const unsigned char* z = nullptr;
    size_t w_bytes = 0, s_bytes = 0, z_bytes = 0;
    float mul = 1;
    PlaneType scale_type = PlaneType::F16, zero_type = PlaneType::F16;
    int codebook = 0, planes = 0;

    Tiles() = default;
    Tiles(const PackedMatrix& matrix, int planes_read);
    void set_first(int64_t tile, TileArgs* args) const;
    void set_types(TileArgs* args) const;
  };

  TileFn run_;
  bool int8_, one_call_ = true;
  size_t padded_, groups_;
  Tiles a_, b_;
  TileArgs call_;
};

}  // namespace smoe
