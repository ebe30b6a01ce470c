// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7) on mma.sync, matrices of any format, one
// bf16 plane of activations. Persistent blocks.
#pragma once

#include "kernels/experts/gemm_wide_codes.cuh"
#include "kernels/experts/multiply_rows.cuh"
#include "kernels/experts/wide_store.cuh"

namespace smoe::cu {

template <int TN>
constexpr int kWideCodesRing =
    CodeShape<TN>::kBytes > GemmShape<TN>::kBytes ? CodeShape<TN>::kBytes : GemmShape<TN>::kBytes;
template <int TN>
constexpr int kWideCodesShared = kWideCodesRing<TN> + 8 * kTransposeBytes;

template <int TN>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_wide_codes(GroupedGemmArgs args) {
  using S = GemmShape<TN>;
  static_assert(8 * store_floats(S::kBlocks) * 4 <= S::kBytes, "store_sums() works in the ring");
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  if (warp() == 0) list_tiles<TN>(args, kGemmBlocks, prefix);
  sync();
  const int tiles = lds(prefix + args.experts), blocks = grouped_blocks(args), k = static_cast<int>(args.k);
  const bool direct = stores_wide(args);
  for (int index = bid(); index < tiles; index += nblocks()) {
    float acc[S::kBlocks][S::kTiles][4] = {};
    {
      const GroupedTile tile = tile_at<TN>(args, kGemmBlocks, prefix, index);
      const AtomMatrix matrix = load_matrix<false>(args.weights + tile.expert);
      const auto row_of = [&](int at) { return grouped_row(args, tile, at); };
      if (matrix.format == AtomFormat::Bf16 || matrix.format == AtomFormat::Bf16x3) {
        GemmOperands<TN> in;
        in.blocks = blocks;
        in.block0 = tile.block0;
        in.x = args.x.data;
        in.x_step = args.x.step;
        in.x_parts = 1;
        in.k = args.k;
        in.aligned = true;
        in.atoms = matrix.atoms;
        in.part_step = matrix.part_step;
        in.weight_parts = matrix.format == AtomFormat::Bf16x3 ? 3 : 1;
        SMOE_UNROLL
        for (int i = 0; i < S::kCopies; ++i) in.row[i] = off(row_of((tid() + i * kGemmThreads) / 4), args.x_stride);
        multiply_tile<TN>(in, ring, acc);
      } else {
        CodeRows<TN> in;
        in.aim(args.x.data, args.x_stride, row_of);
        multiply_any_codes<TN>(in, matrix, tile.block0, blocks, k, tile.stop - tile.row0, ring, acc);
      }
    }
    // Once more, rather than in registers across the multiplication, which needs all of them.
    GroupedTile tile = tile_at<TN>(args, kGemmBlocks, prefix, index);
    const int block = tile.block0 + warp() % S::kWarpsDown * S::kBlocks;
    const AtomFormat format = ldg(&(args.weights + tile.expert)->format);
    const bool codes = format != AtomFormat::Bf16 && format != AtomFormat::Bf16x3;
    const WarpRows mine = code_warp_rows<TN>(codes ? tile.stop - tile.row0 : TN);
    const int row0 = tile.row0 + mine.first;
    if (row0 + mine.count < tile.stop) tile.stop = row0 + mine.count;  // the rest is another warp's
    const auto sum = [&](int b, int t, int c) { return acc[b][t][c]; };
    unsigned char* const scratch = ring + kWideCodesRing<TN> + warp() * kTransposeBytes;
    if (direct && args.glu) {
      wide_store<true, S::kBlocks, S::kTiles>(args, tile, block, row0, scratch, sum);
    } else if (direct) {
      wide_store<false, S::kBlocks, S::kTiles>(args, tile, block, row0, scratch, sum);
    } else {
      float* const floats = reinterpret_cast<float*>(ring) + warp() * store_floats(S::kBlocks);
      store_sums<S::kBlocks, S::kTiles>(args, tile, block, row0, floats, sum);
      sync();
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
