// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7). Persistent blocks walk an implicit list
// of tiles, token tile fastest, so that blocks that run together share weights.
#pragma once

#include "kernels/experts/activation.cuh"
#include "kernels/experts/gemm_codes.cuh"
#include "kernels/experts/multiply_rows.cuh"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

constexpr int kGroupedExperts = 1024;

// codes: whether matrices may be of codes.
template <int TN, bool codes>
SMOE_KERNEL(kGemmThreads, TN == 32 ? 2 : 1)
grouped_gemm(GroupedGemmArgs args) {
  using S = GemmShape<TN>;
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);  // tiles before each expert
  pdl_wait();
  const int64_t blocks = args.glu ? glu_row_blocks(args.features) : row_blocks(args.features);
  const int row_tiles = static_cast<int>((blocks + kGemmBlocks - 1) / kGemmBlocks);
  if (warp() == 0) {
    int before = 0;
    for (int base = 0; base < args.experts; base += 32) {
      const int e = base + lane();
      int sum = e < args.experts ? (ldg(args.offset + e + 1) - ldg(args.offset + e) + TN - 1) / TN * row_tiles : 0;
      for (int d = 1; d < 32; d *= 2) {
        const int lower = shfl_up(sum, d);
        if (lane() >= d) sum += lower;
      }
      if (e < args.experts) sts(prefix + e + 1, before + sum);
      before += shfl(sum, 31);
    }
    if (lane() == 0) sts(prefix, int32_t{0});
  }
  sync();
  const int tiles = lds(prefix + args.experts);
  GemmOperands<TN> in;
  in.blocks = blocks;
  in.x = args.x.data;
  in.x_step = args.x.step;
  in.x_parts = args.x.parts;
  in.k = args.k;
  in.aligned = rows_aligned(args.x, args.x_stride, 0, args.k);
  for (int tile = bid(); tile < tiles; tile += nblocks()) {
    int e = 0, end = args.experts;  // the last expert with prefix[e] <= tile
    while (end - e > 1) {
      const int middle = (e + end) / 2;
      (lds(prefix + middle) <= tile ? e : end) = middle;
    }
    const int first = ldg(args.offset + e), stop = ldg(args.offset + e + 1), token_tiles = (stop - first + TN - 1) / TN;
    const int local = tile - lds(prefix + e), row0 = first + local % token_tiles * TN;
    in.block0 = local / token_tiles * kGemmBlocks;
    SMOE_UNROLL
    for (int i = 0; i < S::kCopies; ++i) {
      const int row = row0 + (tid() + i * kGemmThreads) / 4;
      in.row[i] = row >= stop || (tid() + i * kGemmThreads) / 4 >= TN
                      ? -1
                      : off(args.gather != nullptr ? ldg(args.gather + row) : row, args.x_stride);
    }
    float acc[S::kBlocks][S::kTiles][4] = {};
    multiply_any_tile<TN, codes>(&in, load_matrix<false>(args.weights + e), ring, acc);
    const int64_t block0 = in.block0 + warp() % S::kWarpsDown * S::kBlocks;
    const int token0 = row0 + warp() / S::kWarpsDown * S::kTiles * 8;
    SMOE_UNROLL
    for (int t = 0; t < S::kTiles; ++t) {
      SMOE_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int row = token0 + t * 8 + c_element(lane(), c).col;
        if (row >= stop) continue;
        const float scale = args.row_scale != nullptr ? ldg(args.row_scale + row) : 1.0f;
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          float low = acc[b][t][c] * scale, high = acc[b][t][c + 2] * scale;
          for (int half = 0; half < (args.glu ? 1 : 2); ++half) {
            const int64_t feature = (block0 + b) * (args.glu ? 8 : 16) + half * 8 + lane() / 4;
            if (feature >= args.features) continue;
            const int64_t bias = off(e, args.features) + feature, at = off(row, args.features) + feature;
            float y = half == 0 ? low : high;
            if (args.glu) {
              if (args.gate_bias != nullptr) low += ldg(args.gate_bias + bias);
              if (args.bias != nullptr) high += ldg(args.bias + bias);
              y = activate_glu(args.activation, low, high);
            } else {
              if (args.bias != nullptr) y += ldg(args.bias + bias);
              if (args.activate) y = activate_plain(args.activation.kind, y, args.activation.alpha);
            }
            if (args.out.data != nullptr) {
              store_parts(args.out, at, y);
            } else {
              stg(args.out_f32 + at, y);
            }
          }
        }
      }
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
