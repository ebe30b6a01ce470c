// P3, P4 on mma.sync for matrices of any format and one bf16 plane of activations.
#include "kernels/experts/grouped_gemm_wide_codes.cuh"

#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

int grouped_gemm_wide_codes_tiles(Stream stream, const GroupedGemmArgs& args) {
  const int64_t groups = args.max_groups > 0 ? args.max_groups : 1;
  if (args.max_rows <= 40 * groups) return grouped_gemm_codes(stream, args);
  return launch(stream, {args.blocks > 0 ? args.blocks : 1, kGemmThreads, kWideCodesShared<128>, true},
                &grouped_gemm_wide_codes<128>, args);
}

}  // namespace smoe::cu
