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
  const LinearTiles<TN> list(args, kGemmBlocks);
  GemmOperands<TN> in;
  // The maps' row blocks lie one after the other; those of the next one that a tile reads are not stored.
  in.blocks = off(args.batch, list.blocks);
  in.x_step = args.x.step;
  in.x_parts = args.x.parts;
  in.k = args.k;
  in.aligned = rows_aligned(args.x, args.x_stride, args.x_step, args.k);
  for (int index = bid(); index < list.count; index += nblocks()) {
    const LinearTile tile = list.at(index, kGemmBlocks);
    in.block0 = off(tile.map, list.blocks) + tile.block0;
    in.x = args.x.data + off(tile.map, args.x_step);
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) {
      const int row = (tid() + i * kGemmThreads) / 4;
      in.row[i] = row < TN && tile.token0 + row < list.tokens ? off(tile.token0 + row, args.x_stride) : -1;
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_any_tile<TN, codes>(&in, args.weight, ring, acc);
    linear_store_tile(args, tile.map, tile.block0 + warp() % S::kWarpsDown * S::kBlocks,
                      tile.token0 + warp() / S::kWarpsDown * S::kTiles * 8, list.tokens, acc);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
