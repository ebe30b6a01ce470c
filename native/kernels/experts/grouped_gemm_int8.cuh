// P3, P4 with int8 activations (specs/cuda-kernels.md 2.7, 2.9) on mma.sync: integer formats, any GPU. Persistent
// blocks.
#pragma once

#include "kernels/experts/gemm_int8.cuh"
#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

template <int TN>
constexpr int kGroupedInt8Shared = Int8Shape<TN>::kBytes;

template <int TN>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_int8(GroupedGemmInt8Args args) {
  using S = Int8Shape<TN>;
  static_assert(8 * store_floats(S::kBlocks) * 4 <= S::kRingBytes, "store_sums() works in the ring");
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  const GroupedGemmArgs& map = args.map;
  if (warp() == 0) list_tiles<TN>(map, kGemmBlocks, prefix);
  sync();
  const int blocks = grouped_blocks(map), k = static_cast<int>(map.k);
  // Their number is read anew each time, and so is the tile below: the multiplication needs all registers.
  for (int index = bid(); index < lds(prefix + map.experts); index += nblocks()) {
    float acc[S::kBlocks][S::kTiles][4] = {};
    {
      const GroupedTile tile = tile_at<TN>(map, kGemmBlocks, prefix, index);
      const AtomMatrix matrix = load_matrix<false>(map.weights + tile.expert);
      const auto row_of = [&](int at) { return grouped_row(map, tile, at); };
      multiply_any_int8<TN>(rows_of_group(args.x, matrix.group), row_of, matrix, tile.block0, blocks, k,
                            tile.stop - tile.row0, ring, acc);
    }
    GroupedTile tile = tile_at<TN>(map, kGemmBlocks, prefix, index);
    const WarpRows mine = int8_warp_rows<TN>(tile.stop - tile.row0);
    const int row0 = tile.row0 + mine.first;
    if (row0 + mine.count < tile.stop) tile.stop = row0 + mine.count;  // the rest is another warp's
    float* const scratch = reinterpret_cast<float*>(ring) + warp() * store_floats(S::kBlocks);
    store_sums<S::kBlocks, S::kTiles>(map, tile, tile.block0 + warp() % S::kDown * S::kBlocks, row0, scratch,
                                      [&](int b, int t, int c) { return acc[b][t][c]; });
    sync();
  }
  pdl_trigger();
}

}  // namespace smoe::cu
