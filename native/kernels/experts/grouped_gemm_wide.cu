// P3, P4 on mma.sync for one bf16 plane of either operand: a kernel per tile and depth of its stages.
#include "kernels/experts/grouped_gemm_wide.cuh"

#include "cuda/limits.h"
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {
namespace {

template <int TN>
int launch_wide(Stream stream, const GroupedGemmArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  if (kWideShared<TN, 4> + kGroupedStatic <= shared_limit(stream)) {
    return launch(stream, {blocks, kGemmThreads, kWideShared<TN, 4>, true}, &grouped_gemm_wide<TN, 4>, args);
  }
  static_assert(kWideShared<TN, 2> + kGroupedStatic <= kLeastShared, "fits every GPU");
  return launch(stream, {blocks, kGemmThreads, kWideShared<TN, 2>, true}, &grouped_gemm_wide<TN, 2>, args);
}

}  // namespace

int grouped_gemm_wide_tiles(Stream stream, const GroupedGemmArgs& args) {
  const int64_t groups = args.max_groups > 0 ? args.max_groups : 1, rows = args.max_rows / groups;
  if (rows > 64) return launch_wide<128>(stream, args);
  if (rows > 32) return launch_wide<64>(stream, args);
  if (rows > 16) return launch_wide<32>(stream, args);
  return launch_wide<16>(stream, args);
}

}  // namespace smoe::cu
