// Linear maps of any number of rows on the tile of gemm_wide_codes.cuh: weights of codes, one bf16 plane of rows.
#pragma once

#include "kernels/experts/gemm_wide_codes.cuh"
#include "kernels/experts/linear_store.cuh"

namespace smoe::cu {

// Persistent blocks, token tile fastest, so that blocks that run together share weights.
template <int TN>
SMOE_KERNEL(kGemmThreads, 1)
linear_wide_codes(LinearArgs args) {
  using S = CodeShape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  pdl_wait();
  const int tokens = static_cast<int>(linear_tokens(args)), blocks = static_cast<int>(row_blocks(args.rows));
  const int token_tiles = (tokens + TN - 1) / TN, row_tiles = (blocks + kGemmBlocks - 1) / kGemmBlocks;
  const int tiles = args.batch * row_tiles * token_tiles, k = static_cast<int>(args.k);
  for (int tile = bid(); tile < tiles; tile += nblocks()) {
    const int token0 = tile % token_tiles * TN, map = tile / token_tiles / row_tiles;
    const int local = tile / token_tiles % row_tiles * kGemmBlocks;
    CodeRows<TN> in;
    in.x = reinterpret_cast<const U32x4*>(args.x.data + off(map, args.x_step));
    SMOE_UNROLL
    for (int i = 0; i < CodeShape<TN>::kCopies; ++i) {
      const int row = token0 + tid() / kCodeChunks + 32 * i;
      in.set(i, row < tokens ? row : tokens - 1, static_cast<uint32_t>(args.x_stride / 8));
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    // The maps' row blocks lie one after the other; those of the next one that a tile reads are not stored.
    multiply_any_codes<TN>(in, args.weight, map * blocks + local, args.batch * blocks, k, tokens - token0, ring, acc);
    const int block0 = local + warp() % S::kDown * S::kBlocks;
    const WarpRows mine = code_warp_rows<TN>(tokens - token0);
    const int first = token0 + mine.first, end = first + mine.count < tokens ? first + mine.count : tokens;
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      SMOE_UNROLL
      for (int t = 0; t < S::kTiles; ++t) {
        SMOE_UNROLL
        for (int c = 0; c < 4; ++c) {
          const Element at = c_element(lane(), c);
          const int feature = (block0 + b) * kAtomRows + at.row, token = first + t * 8 + at.col;
          if (feature < args.rows && token < end) linear_store(args, map, feature, token, acc[b][t][c]);
        }
      }
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
