// Linear maps of any number of rows on the tile of gemm_wide.cuh: one bf16 plane of either operand.
#pragma once

#include "kernels/experts/gemm_wide.cuh"
#include "kernels/experts/linear_store.cuh"

namespace smoe::cu {

// Persistent blocks, token tile fastest, so that blocks that run together share weights.
template <int TN, int kAtoms>
SMOE_KERNEL(kGemmThreads, 1)
linear_wide(LinearArgs args) {
  using S = WideShape<TN, kAtoms>;
  SMOE_SMEM_DYN(unsigned char, ring);
  pdl_wait();
  const int tokens = static_cast<int>(linear_tokens(args)), blocks = static_cast<int>(row_blocks(args.rows));
  const int token_tiles = (tokens + TN - 1) / TN, row_tiles = (blocks + kWideBlocks - 1) / kWideBlocks;
  const int tiles = args.batch * row_tiles * token_tiles;
  WideOperands<S> in;
  in.atoms = static_cast<int>(atoms_along(args.k));
  in.chunks = static_cast<int>(args.k / 8);
  const uint32_t stride = static_cast<uint32_t>(args.x_stride / 8);
  const auto start = [&](int tile) {
    const int token0 = tile % token_tiles * TN, map = tile / token_tiles / row_tiles;
    const int block0 = tile / token_tiles % row_tiles * kWideBlocks;
    in.weights = args.weight.atoms + off(map, blocks) * in.atoms * 32 + tid() % (S::kAtoms * 32);
    in.x = reinterpret_cast<const U32x4*>(args.x.data + off(map, args.x_step)) + tid() % S::kChunks;
    SMOE_UNROLL
    for (int i = 0; i < S::kWeightCopies; ++i) {
      const int block = block0 + (tid() + i * kGemmThreads) / (S::kAtoms * 32);
      in.block[i] = static_cast<uint32_t>(block < blocks ? block : blocks - 1) * static_cast<uint32_t>(in.atoms * 32);
    }
    SMOE_UNROLL
    for (int i = 0; i < S::kRowCopies; ++i) {
      const int row = token0 + (tid() + i * kGemmThreads) / S::kChunks;
      in.row[i] = static_cast<uint32_t>(row < tokens ? row : tokens - 1) * stride;
    }
    start_wide<S>(in, ring);
  };
  if (bid() < tiles) start(bid());
  for (int tile = bid(); tile < tiles; tile += nblocks()) {
    const int token0 = tile % token_tiles * TN, map = tile / token_tiles / row_tiles;
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_wide<S>(in, ring, acc);
    if (tile + nblocks() < tiles) start(tile + nblocks());
    const int block0 = tile / token_tiles % row_tiles * kWideBlocks + warp() % S::kDown * S::kBlocks;
    const int first = token0 + warp() / S::kDown * S::kTiles * 8;
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      SMOE_UNROLL
      for (int t = 0; t < S::kTiles; ++t) {
        SMOE_UNROLL
        for (int c = 0; c < 4; ++c) {
          const Element at = c_element(lane(), c);
          const int feature = (block0 + b) * kAtomRows + at.row, token = first + t * 8 + at.col;
          if (feature < args.rows && token < tokens) linear_store(args, map, feature, token, acc[b][t][c]);
        }
      }
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
