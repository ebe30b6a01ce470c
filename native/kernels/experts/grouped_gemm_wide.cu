// P3, P4 on mma.sync for one bf16 plane of either operand: a kernel per tile.
#include "kernels/experts/grouped_gemm_wide.cuh"

#include "cuda/limits.h"
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {
namespace {

constexpr size_t kStaticShared = 5120;  // the tile list, 4 KB, to whole kilobytes

// GPUs with 99 KB of shared memory for a block take the smaller tiles.
template <int TN>
int launch_wide(Stream stream, const GroupedGemmArgs& args) {
  if (kWideShared<TN> + kStaticShared > shared_limit(stream)) return grouped_gemm_parts(stream, args);
  return launch(stream, {args.blocks > 0 ? args.blocks : 1, kGemmThreads, kWideShared<TN>, true},
                &grouped_gemm_wide<TN>, args);
}

}  // namespace

// A tile costs its weights before anything else, so that most experts should need one alone, however few rows of it
// are real.
int grouped_gemm_wide_tiles(Stream stream, const GroupedGemmArgs& args) {
  const int64_t groups = args.max_groups > 0 ? args.max_groups : 1, rows = args.max_rows / groups;
  if (rows > 40) return launch_wide<128>(stream, args);
  if (rows > 20) return launch_wide<64>(stream, args);
  if (rows > 10) return launch_wide<32>(stream, args);
  return launch_wide<16>(stream, args);
}

}  // namespace smoe::cu
