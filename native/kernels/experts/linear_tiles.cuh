// Linear maps of any number of rows, on the tiles of the prefill GEMMs. Persistent blocks, token tile fastest, so that
// blocks that run together share weights.
#pragma once

#include "kernels/experts/gemm_codes.cuh"
#include "kernels/experts/linear_store.cuh"

namespace smoe::cu {

// codes: whether the weights are.
template <int TN, bool codes>
SMOE_KERNEL(kGemmThreads, 1)
linear_tiles(LinearArgs args) {
  using S = GemmShape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  pdl_wait();
  const int64_t tokens = linear_tokens(args);
  GemmOperands<TN> in;
  // The maps' row blocks lie one after the other; those of the next one that a tile reads are not stored.
  const int64_t blocks = row_blocks(args.rows);
  in.blocks = off(args.batch, blocks);
  in.x_step = args.x.step;
  in.x_parts = args.x.parts;
  in.k = args.k;
  in.aligned = rows_aligned(args.x, args.x_stride, args.x_step, args.k);
  const int64_t token_tiles = (tokens + TN - 1) / TN, row_tiles = (blocks + kGemmBlocks - 1) / kGemmBlocks;
  const int64_t tiles = off(args.batch, row_tiles * token_tiles);
  for (int64_t tile = bid(); tile < tiles; tile += nblocks()) {
    const int64_t token0 = tile % token_tiles * TN;
    const int map = static_cast<int>(tile / token_tiles / row_tiles);
    const int64_t local = tile / token_tiles % row_tiles * kGemmBlocks;
    in.block0 = off(map, blocks) + local;
    in.x = args.x.data + off(map, args.x_step);
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) {
      const int row = (tid() + i * kGemmThreads) / 4;
      in.row[i] = row < TN && token0 + row < tokens ? off(token0 + row, args.x_stride) : -1;
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_any_tile<TN, codes>(&in, args.weight, ring, acc);
    const int64_t block0 = local + warp() % S::kWarpsDown * S::kBlocks;
    const int64_t first = token0 + warp() / S::kWarpsDown * S::kTiles * 8;
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      SMOE_UNROLL
      for (int t = 0; t < S::kTiles; ++t) {
        SMOE_UNROLL
        for (int c = 0; c < 4; ++c) {
          const Element at = c_element(lane(), c);
          const int64_t feature = (block0 + b) * kAtomRows + at.row, token = first + t * 8 + at.col;
          if (feature < args.rows && token < tokens) linear_store(args, map, feature, token, acc[b][t][c]);
        }
      }
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
