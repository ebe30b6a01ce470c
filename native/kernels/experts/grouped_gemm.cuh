// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7) on mma.sync: any format, any GPU.
#pragma once

#include "kernels/experts/gemm_codes.cuh"
#include "kernels/experts/grouped_store.cuh"
#include "kernels/experts/multiply_rows.cuh"

namespace smoe::cu {

// The ring and, so that a warp may store while others load the next tile, a place of its own for every warp's sums.
template <int TN>
constexpr int kGroupedShared = GemmShape<TN>::kBytes + 8 * store_floats(GemmShape<TN>::kBlocks) * 4;

// codes: whether matrices may be of codes; nested: and have residual planes.
template <int TN, bool codes, bool nested = false>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm(GroupedGemmArgs args) {
  using S = GemmShape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  if (warp() == 0) list_tiles<TN>(args, kGemmBlocks, prefix);
  sync();
  const int tiles = lds(prefix + args.experts);
  GemmOperands<TN> in;
  in.blocks = grouped_blocks(args);
  in.x = args.x.data;
  in.x_step = args.x.step;
  in.x_parts = args.x.parts;
  in.k = args.k;
  in.aligned = rows_aligned(args.x, args.x_stride, 0, args.k);
  float* const scratch = reinterpret_cast<float*>(ring + S::kBytes) + warp() * store_floats(S::kBlocks);
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = tile_at<TN>(args, kGemmBlocks, prefix, index);
    in.block0 = tile.block0;
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) {
      const int at = (tid() + i * kGemmThreads) / 4, row = tile.row0 + at;
      in.row[i] =
          row >= tile.stop || at >= TN ? -1 : off(args.gather != nullptr ? ldg(args.gather + row) : row, args.x_stride);
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    const AtomMatrix* const matrix = args.weights + tile.expert;
    multiply_any_tile<TN, codes>(&in, load_matrix<false>(matrix), ring, acc);
    if constexpr (nested) {
      multiply_plane_tiles<TN>(in, matrix, planes_read(matrix, args.nested, tile.expert), ring, acc);
    }
    const int block = tile.block0 + warp() % S::kWarpsDown * S::kBlocks;
    const int row0 = tile.row0 + warp() / S::kWarpsDown * S::kTiles * 8;
    store_sums<S::kBlocks, S::kTiles>(args, tile, block, row0, scratch,
                                      [&](int b, int t, int c) { return acc[b][t][c]; });
  }
  pdl_trigger();
}

}  // namespace smoe::cu
