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
  const LinearTiles<TN> list(args, kGemmBlocks);
  for (int index = bid(); index < list.count; index += nblocks()) {
    const LinearTile tile = list.at(index, kGemmBlocks);
    const int live = list.tokens - tile.token0;
    CodeRows<TN> in;
    in.aim(args.x.data + off(tile.map, args.x_step), args.x_stride, [&](int at) { return list.row(tile, at); });
    float acc[S::kBlocks][S::kTiles][4] = {};
    // The maps' row blocks lie one after the other; those of the next one that a tile reads are not stored.
    multiply_any_codes<TN>(in, args.weight, tile.map * list.blocks + tile.block0, args.batch * list.blocks,
                           static_cast<int>(args.k), live, ring, acc);
    const WarpRows mine = code_warp_rows<TN>(live);
    const int first = tile.token0 + mine.first, end = first + mine.count;
    linear_store_tile(args, tile.map, tile.block0 + warp() % S::kDown * S::kBlocks, first,
                      end < list.tokens ? end : list.tokens, acc);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
