// P3, P4: grouped GEMM over the rows of a dispatch (specs/cuda-kernels.md 2.7) on mma.sync, matrices of any format, one
// bf16 plane of activations. Persistent blocks; the first stages of the next tile are under way while a tile is stored.
#pragma once

#include "kernels/experts/gemm_wide_codes.cuh"
#include "kernels/experts/nested_planes.cuh"
#include "kernels/experts/wide_store.cuh"

namespace smoe::cu {

template <int kAtoms>
constexpr int kWideCodesShared = kCodeRingBytes<kAtoms> + 8 * kTransposeBytes;

// acc += a tile of a matrix of bf16 parts, one after the other.
template <int TN, int kAtoms, class RowOf>
SMOE_DEVICE void multiply_bf16_parts(const GroupedGemmArgs& args, const AtomMatrix& matrix, int block0, int blocks,
                                     RowOf row_of, unsigned char* ring,
                                     float (&acc)[CodeShape<TN>::kBlocks][CodeShape<TN>::kTiles][4]) {
  using S = WideShape<TN, kAtoms>;
  static_assert(S::kBytes <= kCodeRingBytes<kAtoms> && S::kAcross == 1, "the sums are those of CodeShape");
  const int parts = matrix.format == AtomFormat::Bf16x3 ? 3 : 1;
  SMOE_UNROLL1
  for (int part = 0; part < parts; ++part) {
    WideOperands<S> in;
    in.atoms = static_cast<int>(atoms_along(args.k));
    in.chunks = static_cast<int>(args.k / 8);
    in.weights = matrix.atoms + off(part, matrix.part_step);
    in.x = reinterpret_cast<const U32x4*>(args.x.data);
    start_wide<S>(&in, ring, block0, blocks, static_cast<uint32_t>(args.x_stride / 8), row_of);
    multiply_wide<S>(in, ring, acc);
  }
}

// nested: matrices may have residual planes.
template <int TN, int kAtoms, bool nested = false>
SMOE_KERNEL(kGemmThreads, 1)
grouped_gemm_wide_codes(GroupedGemmArgs args) {
  using S = CodeShape<TN>;
  constexpr int kRing = kCodeRingBytes<kAtoms>;
  static_assert(8 * store_floats(S::kBlocks) * 4 <= kRing, "store_sums() works in the ring");
  SMOE_SMEM_DYN(unsigned char, ring);
  SMOE_SMEM(int32_t, prefix, kGroupedExperts + 1);
  pdl_wait();
  if (warp() == 0) list_tiles<TN>(args, kWideBlocks, prefix);
  sync();
  // Read or reckoned where it is used, for the same reason as tile_at() below.
  const auto tiles = [&] { return lds(prefix + args.experts); };
  const int blocks = grouped_blocks(args), k = static_cast<int>(args.k);
  CodeOperands<TN> in;
  const auto start = [&](int index) {
    const GroupedTile tile = tile_at<TN>(args, kWideBlocks, prefix, index);
    const AtomMatrix matrix = load_matrix<false>(args.weights + tile.expert);
    in.aim_rows(args.x_stride, [&](int at) { return grouped_row(args, tile, at); });
    start_any_codes<kRing>(&in, args.x.data, matrix, tile.block0, blocks, k, tile.stop - tile.row0, ring);
  };
  if (bid() < tiles()) start(bid());
  for (int index = bid(); index < tiles(); index += nblocks()) {
    float acc[S::kBlocks][S::kTiles][4] = {};
    {
      const GroupedTile tile = tile_at<TN>(args, kWideBlocks, prefix, index);
      const AtomMatrix matrix = load_matrix<false>(args.weights + tile.expert);
      if (is_codes(matrix.format)) {
        multiply_any_codes<kRing>(in, args.x.data, matrix, tile.block0, blocks, k, tile.stop - tile.row0, ring, acc);
      } else {
        multiply_bf16_parts<TN, kAtoms>(
            args, matrix, tile.block0, blocks, [&](int at) { return grouped_row(args, tile, at); }, ring, acc);
      }
    }
    if constexpr (nested) {
      SMOE_UNROLL1
      for (int plane = 1;; ++plane) {
        const GroupedTile tile = tile_at<TN>(args, kWideBlocks, prefix, index);
        const AtomMatrix* const matrix = args.weights + tile.expert;
        if (plane > planes_read(matrix, args.nested, tile.expert)) break;
        multiply_wide_plane<kRing>(&in, args.x.data, load_matrix<false>(plane_of(matrix, plane)), tile.block0, blocks,
                                   k, tile.stop - tile.row0, ring, acc);
      }
    }
    // Once more, rather than in registers across the multiplication, which needs all of them.
    const GroupedTile tile = tile_at<TN>(args, kWideBlocks, prefix, index);
    const bool more = index + nblocks() < tiles();
    const int block = tile.block0 + warp() * S::kBlocks;
    const auto sum = [&](int b, int t, int c) { return acc[b][t][c]; };
    if (stores_wide(args)) {
      if (more) start(index + nblocks());
      unsigned char* const scratch = ring + kRing + warp() * kTransposeBytes;
      if (args.glu) {
        wide_store<true, S::kBlocks, S::kTiles>(args, tile, block, tile.row0, scratch, sum);
      } else {
        wide_store<false, S::kBlocks, S::kTiles>(args, tile, block, tile.row0, scratch, sum);
      }
    } else {
      float* const scratch = reinterpret_cast<float*>(ring) + warp() * store_floats(S::kBlocks);
      store_sums<S::kBlocks, S::kTiles>(args, tile, block, tile.row0, scratch, sum);
      sync();
      if (more) start(index + nblocks());
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
