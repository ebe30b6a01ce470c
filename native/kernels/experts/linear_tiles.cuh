// Linear maps of any number of rows, on the tiles of the prefill GEMMs. Persistent blocks, token tile fastest, so that
// blocks that run together share weights.
#pragma once

#include "kernels/experts/gemm_tile.cuh"
#include "kernels/experts/linear_store.cuh"

namespace smoe::cu {

template <int TN>
SMOE_KERNEL(kGemmThreads, 1)
linear_tiles(LinearArgs args) {
  using S = GemmShape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  pdl_wait();
  const int64_t tokens = linear_tokens(args);
  GemmOperands<TN> in;
  in.part_step = args.weight.part_step;
  in.weight_parts = args.weight.format == AtomFormat::Bf16x3 ? 3 : 1;
  in.blocks = row_blocks(args.rows);
  in.x_step = args.x.step;
  in.x_parts = args.x.parts;
  in.k = args.k;
  in.aligned = rows_aligned(args.x, args.x_stride, args.x_step, args.k);
  const int64_t token_tiles = (tokens + TN - 1) / TN, row_tiles = (in.blocks + kGemmBlocks - 1) / kGemmBlocks;
  const int64_t tiles = off(args.batch, row_tiles * token_tiles);
  for (int64_t tile = bid(); tile < tiles; tile += nblocks()) {
    const int64_t token0 = tile % token_tiles * TN;
    const int map = static_cast<int>(tile / token_tiles / row_tiles);
    in.atoms = args.weight.atoms + off(map, in.blocks) * atoms_along(args.k) * 32;
    in.block0 = tile / token_tiles % row_tiles * kGemmBlocks;
    in.x = args.x.data + off(map, args.x_step);
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) {
      const int row = (tid() + i * kGemmThreads) / 4;
      in.row[i] = row < TN && token0 + row < tokens ? off(token0 + row, args.x_stride) : -1;
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_tile<TN>(in, ring, acc);
    const int64_t block0 = in.block0 + warp() % S::kWarpsDown * S::kBlocks;
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
