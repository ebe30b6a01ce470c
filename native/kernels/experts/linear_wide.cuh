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
  const LinearTiles<TN> list(args, kWideBlocks);
  WideOperands<S> in;
  in.atoms = static_cast<int>(atoms_along(args.k));
  in.chunks = static_cast<int>(args.k / 8);
  const auto start = [&](const LinearTile& tile) {
    in.weights = args.weight.atoms + off(tile.map, list.blocks) * in.atoms * 32;
    in.x = reinterpret_cast<const U32x4*>(args.x.data + off(tile.map, args.x_step));
    start_wide<S>(&in, ring, tile.block0, list.blocks, static_cast<uint32_t>(args.x_stride / 8),
                  [&](int at) { return list.row(tile, at); });
  };
  if (bid() < list.count) start(list.at(bid(), kWideBlocks));
  for (int index = bid(); index < list.count; index += nblocks()) {
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_wide<S>(in, ring, acc);
    if (index + nblocks() < list.count) start(list.at(index + nblocks(), kWideBlocks));
    const LinearTile tile = list.at(index, kWideBlocks);
    linear_store_tile(args, tile.map, tile.block0 + warp() % S::kDown * S::kBlocks,
                      tile.token0 + warp() / S::kDown * S::kTiles * 8, list.tokens, acc);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
