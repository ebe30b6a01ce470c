// Linear maps of any number of rows, one bf16 plane of either operand: a kernel per tile.
#include "kernels/experts/linear_wide.cuh"

#include "cuda/limits.h"
#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {
namespace {

template <int TN>
int launch_wide(Stream stream, const LinearArgs& args, int64_t blocks) {
  const int64_t tiles = linear_tiles_count<TN>(args, kWideBlocks), grid = blocks < tiles ? blocks : tiles;
  if (static_cast<size_t>(WideShape<TN, 4>::kBytes) <= shared_limit(stream)) {
    return launch(stream, {grid, kGemmThreads, WideShape<TN, 4>::kBytes, true}, &linear_wide<TN, 4>, args);
  }
  static_assert(WideShape<TN, 2>::kBytes <= kLeastShared, "fits every GPU");
  return launch(stream, {grid, kGemmThreads, WideShape<TN, 2>::kBytes, true}, &linear_wide<TN, 2>, args);
}

// What the tiles take one after the other: their bytes, TN + 256 rows, which few real rows do not make fewer.
template <int TN>
int64_t wide_time(const LinearArgs& args, int64_t blocks) {
  return (linear_tiles_count<TN>(args, kWideBlocks) + blocks - 1) / blocks * (TN + 256);
}

}  // namespace

int linear_wide_tiles(Stream stream, const LinearArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  const int64_t large = wide_time<128>(args, blocks), half = wide_time<64>(args, blocks),
                small = wide_time<32>(args, blocks);
  if (large <= half && large <= small) return launch_wide<128>(stream, args, blocks);
  return half <= small ? launch_wide<64>(stream, args, blocks) : launch_wide<32>(stream, args, blocks);
}

}  // namespace smoe::cu
