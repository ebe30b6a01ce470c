// P3, P4 on mma.sync for matrices of any format and one bf16 plane of activations: a kernel per depth of the ring.
#pragma once

#include "cuda/limits.h"
#include "kernels/experts/grouped_gemm_launch.h"
#include "kernels/experts/grouped_gemm_wide_codes.cuh"

namespace smoe::cu {

template <bool nested>
int launch_wide_codes(Stream stream, const GroupedGemmArgs& args) {
  constexpr int kRows = 64;
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  if (kWideCodesShared<4> + kGroupedStatic <= shared_limit(stream)) {
    return launch(stream, {blocks, kGemmThreads, kWideCodesShared<4>, true}, &grouped_gemm_wide_codes<kRows, 4, nested>,
                  args);
  }
  static_assert(kWideCodesShared<2> + kGroupedStatic <= kLeastShared, "fits every GPU");
  return launch(stream, {blocks, kGemmThreads, kWideCodesShared<2>, true}, &grouped_gemm_wide_codes<kRows, 2, nested>,
                args);
}

}  // namespace smoe::cu
