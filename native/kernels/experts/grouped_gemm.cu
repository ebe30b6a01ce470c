// P3, P4 of bf16 parts, and the choice of a kernel.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  constexpr int kInvalidValue = 1;  // of cudaError_t
  if (args.experts > kGroupedExperts) return kInvalidValue;
  return args.no_codes || args.bf16_only ? grouped_gemm_kind<false>(stream, args) : grouped_gemm_codes(stream, args);
}

}  // namespace smoe::cu
