// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7) on mma.sync, one bf16 plane of either
// operand. Persistent blocks; the first stages of the next tile are under way while a tile is stored.
#pragma once

#include "kernels/experts/gemm_wide.cuh"
#include "kernels/experts/wide_store.cuh"

namespace smoe::cu {

template <int TN, int kAtoms>
constexpr int kWideShared = WideShape<TN, kAtoms>::kBytes + 8 * kTransposeBytes;

template <int TN, int kAtoms>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_wide(GroupedGemmArgs args) {
  using S = WideShape<TN, kAtoms>;
  static_assert(8 * store_floats(S::kBlocks) * 4 <= S::kBytes, "store_sums() works in the ring");
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  if (warp() == 0) list_tiles<TN>(args, kWideBlocks, prefix);
  sync();
  const int tiles = lds(prefix + args.experts), blocks = grouped_blocks(args);
  const bool direct = stores_wide(args);
  WideOperands<S> in;
  in.atoms = static_cast<int>(atoms_along(args.k));
  in.chunks = static_cast<int>(args.k / 8);
  const auto start = [&](const GroupedTile& tile) {
    in.weights = ldg(&(args.weights + tile.expert)->atoms);
    in.x = reinterpret_cast<const U32x4*>(args.x.data);
    start_wide<S>(&in, ring, tile.block0, blocks, static_cast<uint32_t>(args.x_stride / 8),
                  [&](int at) { return grouped_row(args, tile, at); });
  };
  GroupedTile next = {};
  if (bid() < tiles) {
    next = tile_at<TN>(args, kWideBlocks, prefix, bid());
    start(next);
  }
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = next;
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_wide<S>(in, ring, acc);
    const bool more = index + nblocks() < tiles;
    if (more) next = tile_at<TN>(args, kWideBlocks, prefix, index + nblocks());
    const int block = tile.block0 + warp() % S::kDown * S::kBlocks;
    const int row0 = tile.row0 + warp() / S::kDown * S::kTiles * 8;
    const auto sum = [&](int b, int t, int c) { return acc[b][t][c]; };
    if (direct) {
      if (more) start(next);
      unsigned char* const scratch = ring + S::kBytes + warp() * kTransposeBytes;
      if (args.glu) {
        wide_store<true, S::kBlocks, S::kTiles>(args, tile, block, row0, scratch, sum);
      } else {
        wide_store<false, S::kBlocks, S::kTiles>(args, tile, block, row0, scratch, sum);
      }
    } else {
      float* const scratch = reinterpret_cast<float*>(ring) + warp() * store_floats(S::kBlocks);
      store_sums<S::kBlocks, S::kTiles>(args, tile, block, row0, scratch, sum);
      sync();
      if (more) start(next);
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
