// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7) on mma.sync, one bf16 plane of either
// operand. Persistent blocks; the first stages of the next tile are under way while a tile is stored.
#pragma once

#include "kernels/experts/gemm_wide.cuh"
#include "kernels/experts/wide_store.cuh"

namespace smoe::cu {

// A tile of TN = 128 whose real rows are no more than half of that runs as one of 64, in the same ring.
template <int TN, int kAtoms>
using WideHalf = WideShape<TN == 128 ? 64 : TN, kAtoms>;
template <int TN, int kAtoms>
constexpr int kWideRing = WideShape<TN, kAtoms>::kBytes > WideHalf<TN, kAtoms>::kBytes ? WideShape<TN, kAtoms>::kBytes
                                                                                       : WideHalf<TN, kAtoms>::kBytes;
template <int TN, int kAtoms>
constexpr int kWideShared = kWideRing<TN, kAtoms> + 8 * kTransposeBytes;

// visit(shape of the tile).
template <int TN, int kAtoms, class Visit>
SMOE_DEVICE void with_shape(const GroupedTile& tile, Visit visit) {
  if constexpr (TN == 128) {
    with_rows<TN>(tile.stop - tile.row0, [&](auto rows) { visit(WideShape<decltype(rows)::value, kAtoms>{}); });
  } else {
    visit(WideShape<TN, kAtoms>{});
  }
}

template <int TN, int kAtoms>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_wide(GroupedGemmArgs args) {
  using Whole = WideShape<TN, kAtoms>;
  static_assert(8 * store_floats(Whole::kBlocks) * 4 <= Whole::kBytes, "store_sums() works in the ring");
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  if (warp() == 0) list_tiles<TN>(args, kWideBlocks, prefix);
  sync();
  // Read or reckoned where it is used: the multiplication needs all registers.
  const auto tiles = [&] { return lds(prefix + args.experts); };
  const int blocks = grouped_blocks(args);
  WideOperands<Whole> in;
  in.atoms = static_cast<int>(atoms_along(args.k));
  in.chunks = static_cast<int>(args.k / 8);
  const auto start = [&](const GroupedTile& tile) {
    in.weights = ldg(&(args.weights + tile.expert)->atoms);
    in.x = reinterpret_cast<const U32x4*>(args.x.data);
    with_shape<TN, kAtoms>(tile, [&](auto shape) {
      start_wide<decltype(shape)>(&in, ring, tile.block0, blocks, static_cast<uint32_t>(args.x_stride / 8),
                                  [&](int at) { return grouped_row(args, tile, at); });
    });
  };
  GroupedTile next = {};
  if (bid() < tiles()) {
    next = tile_at<TN>(args, kWideBlocks, prefix, bid());
    start(next);
  }
  for (int index = bid(); index < tiles(); index += nblocks()) {
    const GroupedTile tile = next;
    with_shape<TN, kAtoms>(tile, [&](auto shape) {
      using S = decltype(shape);
      float acc[S::kBlocks][S::kTiles][4] = {};
      multiply_wide<S>(in, ring, acc);
      const bool more = index + nblocks() < tiles();
      if (more) next = tile_at<TN>(args, kWideBlocks, prefix, index + nblocks());
      const int block = tile.block0 + warp() % S::kDown * S::kBlocks;
      const int row0 = tile.row0 + warp() / S::kDown * S::kTiles * 8;
      const auto sum = [&](int b, int t, int c) { return acc[b][t][c]; };
      if (stores_wide(args)) {
        if (more) start(next);
        unsigned char* const scratch = ring + kWideRing<TN, kAtoms> + warp() * kTransposeBytes;
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
    });
  }
  pdl_trigger();
}

}  // namespace smoe::cu
