// What follows the sum of a linear map, for one output: linear_rows and linear_tiles. And the tiles of the latter.
#pragma once

#include <math.h>

#include "cuda/cu.h"
#include "kernels/experts/atoms.h"
#include "kernels/experts/expert_args.h"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

SMOE_DEVICE int64_t linear_tokens(const LinearArgs& args) {
  const int64_t real = args.num_tokens != nullptr ? ldg(args.num_tokens) : args.max_tokens;
  return real < args.max_tokens ? real : args.max_tokens;
}

SMOE_DEVICE void linear_store(const LinearArgs& args, int map, int64_t feature, int64_t token, float y) {
  if (args.bias != nullptr) y += ldg(args.bias + off(map, args.rows) + feature);
  if (args.sigmoid) y = 1 / (1 + expf(-y));
  const int64_t at = off(token, args.out_stride) + off(map, args.out_step) + feature;
  if (args.residual != nullptr) y += ldg(args.residual + at);
  if (args.out != nullptr) stg(args.out + at, y);
  if (args.out_planes.data != nullptr) store_parts(args.out_planes, at, y);
}

// Tiles of TN rows times `tile_blocks` row blocks of the maps, row tile fastest, so that blocks that run together share
// weights.
struct LinearTile {
  int token0, map;
  int block0;  // first row block, of the map
};
template <int TN>
struct LinearTiles {
  int tokens, blocks;  // row blocks of a map
  int token_tiles, row_tiles, count;

  SMOE_DEVICE LinearTiles(const LinearArgs& args, int tile_blocks)
      : tokens(static_cast<int>(linear_tokens(args))),
        blocks(static_cast<int>(row_blocks(args.rows))),
        token_tiles((tokens + TN - 1) / TN),
        row_tiles((blocks + tile_blocks - 1) / tile_blocks),
        count(args.batch * row_tiles * token_tiles) {}
  SMOE_DEVICE LinearTile at(int tile, int tile_blocks) const {
    const int down = tile / token_tiles;
    return {tile % token_tiles * TN, down / row_tiles, down % row_tiles * tile_blocks};
  }
  // Rows past the end repeat the last one; nobody reads their sums.
  SMOE_DEVICE int row(const LinearTile& tile, int at) const {
    return tile.token0 + at < tokens ? tile.token0 + at : tokens - 1;
  }
};

// Row blocks [block0, block0 + kBlocks) of a map times rows [first, end), of which a warp has sums for kTiles groups of
// eight.
template <int kBlocks, int kTiles>
SMOE_DEVICE void linear_store_tile(const LinearArgs& args, int map, int block0, int first, int end,
                                   const float (&acc)[kBlocks][kTiles][4]) {
  SMOE_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    SMOE_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      SMOE_UNROLL
      for (int c = 0; c < 4; ++c) {
        const Element at = c_element(lane(), c);
        const int feature = (block0 + b) * kAtomRows + at.row, token = first + t * 8 + at.col;
        if (feature < args.rows && token < end) linear_store(args, map, feature, token, acc[b][t][c]);
      }
    }
  }
}

}  // namespace smoe::cu
