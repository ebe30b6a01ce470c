// P3, P4 on mma.sync for matrices of any format and one bf16 plane of activations: a kernel per depth of the ring.
#include "kernels/experts/grouped_gemm_wide_codes.cuh"

#include "cuda/limits.h"
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {
namespace {

constexpr int kRows = 64;
constexpr size_t kStaticShared = 5120;  // the tile list, 4 KB, and what the system takes, 1 KB

}  // namespace

int grouped_gemm_wide_codes_tiles(Stream stream, const GroupedGemmArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  if (kWideCodesShared<kRows, 4> + kStaticShared <= shared_limit(stream)) {
    return launch(stream, {blocks, kGemmThreads, kWideCodesShared<kRows, 4>, true}, &grouped_gemm_wide_codes<kRows, 4>,
                  args);
  }
  static_assert(kWideCodesShared<kRows, 2> + kStaticShared <= kLeastShared, "fits every GPU");
  return launch(stream, {blocks, kGemmThreads, kWideCodesShared<kRows, 2>, true}, &grouped_gemm_wide_codes<kRows, 2>,
                args);
}

}  // namespace smoe::cu
