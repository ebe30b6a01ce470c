// From the sums of a tile of gemm_wide.cuh to one bf16 plane, for one warp. Sums are activated where they are and
// rounded; 8 x 8 blocks of them are transposed through shared memory, so that a lane stores eight neighbouring features
// of one row, 16 bytes.
#pragma once

#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

constexpr int kTransposeBytes = 2 * 512;  // of a warp: four blocks being written while four are read

// What wide_store() is for; anything else goes through store_sums().
SMOE_DEVICE bool stores_wide(const GroupedGemmArgs& args) {
  if (args.out.data == nullptr || args.out.parts != 1 || !outputs_aligned(args)) return false;
  if (args.bias != nullptr || args.gate_bias != nullptr || args.row_scale != nullptr) return false;
  return args.glu ? args.activation.kind == Activation::Silu : !args.activate;
}

// Row blocks [block, block + kBlocks) times the rows from row0 on, kTiles groups of eight. sum(b, t, c): as
// store_sums(). scratch: kTransposeBytes of this warp.
template <bool glu, int kBlocks, int kTiles, class Sum>
SMOE_DEVICE void wide_store(const GroupedGemmArgs& args, const GroupedTile& tile, int block, int row0,
                            unsigned char* scratch, Sum sum) {
  constexpr int kHalves = glu ? 1 : 2, kGroups = kBlocks * kHalves;  // of eight features
  ActivationSpec silu = args.activation;
  silu.kind = Activation::Silu;
  const int g = lane() / 4, t = lane() % 4;
  // ldmatrix: row r of matrix i is feature 2 i + r % 2 of block r / 2, so that a lane gets the eight of block lane % 4.
  // Feature f of block a lies at 16-byte place (f + 2 a) % 8, which meets no bank twice either way.
  const int r = lane() % 8, i = lane() / 8;
  const unsigned char* const from = scratch + r / 2 * 128 + (2 * i + r % 2 + 2 * (r / 2)) % 8 * 16;
  SMOE_UNROLL
  for (int unit = 0; unit < kGroups * kTiles / 4; ++unit) {
    if (row0 + unit * 4 / kGroups * 8 >= tile.stop) break;
    const int buffer = unit % 2 * 512;
    SMOE_UNROLL
    for (int a = 0; a < 4; ++a) {
      const int n = unit * 4 + a, group = n / kGroups, b = n % kGroups / kHalves, half = n % kHalves;
      float low, high;
      if constexpr (glu) {
        low = activate_glu(silu, sum(b, group, 0), sum(b, group, 2));
        high = activate_glu(silu, sum(b, group, 1), sum(b, group, 3));
      } else {
        low = sum(b, group, 2 * half);
        high = sum(b, group, 2 * half + 1);
      }
      sts(reinterpret_cast<uint32_t*>(scratch + buffer + a * 128 + (g + 2 * a) % 8 * 16) + t, round_bf16x2(low, high));
    }
    sync_warp();
    U32x4 eight;
    ldmatrix_x4_trans(eight.x, from + buffer);
    const int n = unit * 4 + t, row = row0 + n / kGroups * 8 + g;
    const int64_t feature = (off(block, kHalves) + n % kGroups) * 8;
    if (row < tile.stop && feature < args.features) {
      stg(reinterpret_cast<U32x4*>(args.out.data + off(row, args.features) + feature), eight);
    }
  }
  sync_warp();
}

}  // namespace smoe::cu
