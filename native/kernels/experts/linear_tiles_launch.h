// Linear maps of any number of rows: a kernel per tile, those of codes in a .cu of their own.
#pragma once

#include "kernels/cuda_launches.h"
#include "kernels/experts/linear_tiles.cuh"

namespace smoe::cu {

template <int TN>
int64_t linear_tiles_count(const LinearArgs& args, int tile_blocks = kGemmBlocks) {
  return args.batch * ((row_blocks(args.rows) + tile_blocks - 1) / tile_blocks) * ((args.max_tokens + TN - 1) / TN);
}

template <int TN, bool codes>
int linear_tiles_of(Stream stream, const LinearArgs& args, int64_t blocks) {
  const int64_t tiles = linear_tiles_count<TN>(args);
  return launch(stream, {blocks < tiles ? blocks : tiles, kGemmThreads, GemmShape<TN>::kBytes, true},
                &linear_tiles<TN, codes>, args);
}

int linear_tiles_codes(Stream stream, const LinearArgs& args);
int linear_tiles_parts(Stream stream, const LinearArgs& args);
// One bf16 plane of either operand, rows of whole aligned 16-byte chunks.
int linear_wide_tiles(Stream stream, const LinearArgs& args);
// The same, weights of codes.
int linear_wide_codes_tiles(Stream stream, const LinearArgs& args);

}  // namespace smoe::cu
