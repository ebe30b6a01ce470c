// The implicit tile list of the grouped GEMMs (specs/cuda-kernels.md 2.7): tiles of TN rows of a dispatch times
// `tile_blocks` row blocks of a matrix, per expert, row tile fastest, so that blocks that run together share weights.
#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms.h"
#include "kernels/experts/expert_args.h"

namespace smoe::cu {

constexpr int kGroupedExperts = 1024;
// Of a block's shared memory beside what a launch asks for: the tile list, and 1 KB that the system takes.
constexpr size_t kGroupedStatic = kGroupedExperts * sizeof(int32_t) + 1024;

struct GroupedTile {
  int expert;
  int row0, stop;  // first row of the tile; end of the expert's rows
  int block0;      // first row block of its matrix
};

SMOE_DEVICE int grouped_blocks(const GroupedGemmArgs& args) {
  return static_cast<int>(args.glu ? glu_row_blocks(args.features) : row_blocks(args.features));
}

// prefix[e]: tiles before expert e, [experts + 1] in shared memory. By one warp.
template <int TN>
SMOE_DEVICE void list_tiles(const GroupedGemmArgs& args, int tile_blocks, int32_t* prefix) {
  const int across = (grouped_blocks(args) + tile_blocks - 1) / tile_blocks;
  int before = 0;
  for (int base = 0; base < args.experts; base += 32) {
    const int e = base + lane();
    int sum = e < args.experts ? (ldg(args.offset + e + 1) - ldg(args.offset + e) + TN - 1) / TN * across : 0;
    for (int d = 1; d < 32; d *= 2) {
      const int lower = shfl_up(sum, d);
      if (lane() >= d) sum += lower;
    }
    if (e < args.experts) sts(prefix + e + 1, before + sum);
    before += shfl(sum, 31);
  }
  if (lane() == 0) sts(prefix, int32_t{0});
}

SMOE_DEVICE int expert_of_tile(const GroupedGemmArgs& args, const int32_t* prefix, int tile) {
  int e = 0, end = args.experts;  // the last expert with prefix[e] <= tile
  while (end - e > 1) {
    const int middle = (e + end) / 2;
    (lds(prefix + middle) <= tile ? e : end) = middle;
  }
  return e;
}

template <int TN>
SMOE_DEVICE GroupedTile tile_at(const GroupedGemmArgs& args, int tile_blocks, const int32_t* prefix, int tile) {
  const int e = expert_of_tile(args, prefix, tile);
  const int first = ldg(args.offset + e), stop = ldg(args.offset + e + 1), down = (stop - first + TN - 1) / TN;
  const int local = tile - lds(prefix + e);
  return {e, first + local % down * TN, stop, local / down * tile_blocks};
}

// The row of x that is row `at` of a tile. Rows past the end repeat the last one; nobody reads their sums.
SMOE_DEVICE int grouped_row(const GroupedGemmArgs& args, const GroupedTile& tile, int at) {
  const int row = tile.row0 + at < tile.stop ? tile.row0 + at : tile.stop - 1;
  return args.gather != nullptr ? ldg(args.gather + row) : row;
}

// Tiles as tile_at() has them, but all tiles of an expert get as many rows, give or take one, and stop where the next
// begins.
template <int TN>
SMOE_DEVICE GroupedTile even_tile_at(const GroupedGemmArgs& args, int tile_blocks, const int32_t* prefix, int tile) {
  const int e = expert_of_tile(args, prefix, tile);
  const int first = ldg(args.offset + e), rows = ldg(args.offset + e + 1) - first, down = (rows + TN - 1) / TN;
  const int local = tile - lds(prefix + e), across = local / down, at = local - across * down;
  const int each = rows / down, more = rows - each * down, row0 = first + at * each + (at < more ? at : more);
  return {e, row0, row0 + each + (at < more ? 1 : 0), across * tile_blocks};
}

}  // namespace smoe::cu
