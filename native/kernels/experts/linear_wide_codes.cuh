// Linear maps of any number of rows on the tile of gemm_wide_codes.cuh: weights of codes, one bf16 plane of rows.
#pragma once

#include "kernels/experts/gemm_wide_codes.cuh"
#include "kernels/experts/linear_store.cuh"

namespace smoe::cu {

// Persistent blocks, token tile fastest, so that blocks that run together share weights; the first stages of the next
// tile are under way while a tile is stored.
template <int TN, int kAtoms>
SMOE_KERNEL(kGemmThreads, 1)
linear_wide_codes(LinearArgs args) {
  using S = CodeShape<TN>;
  constexpr int kRing = kCodeRingBytes<kAtoms>;
  SMOE_SMEM_DYN(unsigned char, ring);
  pdl_wait();
  const LinearTiles<TN> list(args, kWideBlocks);
  const int k = static_cast<int>(args.k);
  CodeOperands<TN> in;
  // The maps' row blocks lie one after the other; those of the next one that a tile reads are not stored.
  const auto block_of = [&](const LinearTile& tile) { return tile.map * list.blocks + tile.block0; };
  const auto x_of = [&](const LinearTile& tile) { return args.x.data + off(tile.map, args.x_step); };
  const auto start = [&](int index) {
    const LinearTile tile = list.at(index, kWideBlocks);
    in.aim_rows(args.x_stride, [&](int at) { return list.row(tile, at); });
    start_any_codes<kRing>(&in, x_of(tile), args.weight, block_of(tile), args.batch * list.blocks, k,
                           list.tokens - tile.token0, ring);
  };
  if (bid() < list.count) start(bid());
  for (int index = bid(); index < list.count; index += nblocks()) {
    const LinearTile tile = list.at(index, kWideBlocks);
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_any_codes<kRing>(in, x_of(tile), args.weight, block_of(tile), args.batch * list.blocks, k,
                              list.tokens - tile.token0, ring, acc);
    if (index + nblocks() < list.count) start(index + nblocks());
    linear_store_tile(args, tile.map, tile.block0 + warp() * S::kBlocks, tile.token0, list.tokens, acc);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
