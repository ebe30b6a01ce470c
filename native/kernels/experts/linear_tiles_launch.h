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

// The large tile, which has half the tokens where there are codes (grouped_gemm_launch.h), where it gives every SM one;
// else more, smaller ones.
template <bool codes>
int linear_tiles_kind(Stream stream, const LinearArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  constexpr int kLarge = codes ? 64 : 128;
  return linear_tiles_count<kLarge>(args) >= blocks ? linear_tiles_of<kLarge, codes>(stream, args, blocks)
                                                    : linear_tiles_of<32, codes>(stream, args, blocks);
}

int linear_tiles_codes(Stream stream, const LinearArgs& args);
int linear_tiles_parts(Stream stream, const LinearArgs& args);
// One bf16 plane of either operand, rows of whole aligned 16-byte chunks.
int linear_wide_tiles(Stream stream, const LinearArgs& args);
// The same, weights of codes.
int linear_wide_codes_tiles(Stream stream, const LinearArgs& args);

}  // namespace smoe::cu
