// P3, P4 with int8 activations (specs/cuda-kernels.md 2.7, 2.9) on mma.sync: integer formats, any GPU.
#pragma once

#include "kernels/experts/gemm_int8.cuh"
#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

template <int TN>
constexpr int kGroupedInt8Shared = Int8Shape<TN>::kBytes + 8 * store_floats(1) * 4;

template <int TN>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_int8(GroupedGemmInt8Args args) {
  using S = Int8Shape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  const GroupedGemmArgs& map = args.map;
  if (warp() == 0) list_tiles<TN>(map, kGemmBlocks, prefix);
  sync();
  const int tiles = lds(prefix + map.experts);
  Int8Operands<TN> in;
  in.blocks = grouped_blocks(map);
  in.k = map.k;
  float* const scratch = reinterpret_cast<float*>(ring + S::kBytes) + warp() * store_floats(1);
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = tile_at<TN>(map, kGemmBlocks, prefix, index);
    const AtomMatrix matrix = load_matrix<false>(map.weights + tile.expert);
    in.x = rows_of_group(args.x, matrix.group);
    in.block0 = tile.block0;
    const auto row_of = [&](int at) -> int64_t {
      const int row = tile.row0 + at;
      return row >= tile.stop ? -1 : map.gather != nullptr ? ldg(map.gather + row) : row;
    };
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) in.row[i] = row_of((tid() + i * kGemmThreads) / S::kChunks);
    in.scale_row = row_of(tid() % TN);
    float acc[S::kTiles][4] = {};
    with_bytes(matrix.format, [&](auto codes) { multiply_int8_tile<TN, decltype(codes)>(in, matrix, ring, acc); });
    store_sums<1, S::kTiles>(map, tile, tile.block0 + warp(), tile.row0, scratch,
                             [&](int, int t, int c) { return acc[t][c]; });
  }
  pdl_trigger();
}

}  // namespace smoe::cu
