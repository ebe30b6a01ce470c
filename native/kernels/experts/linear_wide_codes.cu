// Linear maps of any number of rows, weights of codes and one bf16 plane of rows.
#include "kernels/experts/linear_wide_codes.cuh"

#include "cuda/limits.h"
#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {
namespace {

constexpr int kRows = 64;

template <int kAtoms>
int launch_codes(Stream stream, const LinearArgs& args, int64_t blocks) {
  return launch(stream, {blocks, kGemmThreads, kCodeRingBytes<kAtoms>, true}, &linear_wide_codes<kRows, kAtoms>, args);
}

}  // namespace

int linear_wide_codes_tiles(Stream stream, const LinearArgs& args) {
  const int64_t most = args.blocks > 0 ? args.blocks : 1, tiles = linear_tiles_count<kRows>(args, kWideBlocks);
  const int64_t blocks = most < tiles ? most : tiles;
  return static_cast<size_t>(kCodeRingBytes<4>) + 1024 <= shared_limit(stream) ? launch_codes<4>(stream, args, blocks)
                                                                               : launch_codes<2>(stream, args, blocks);
}

}  // namespace smoe::cu
