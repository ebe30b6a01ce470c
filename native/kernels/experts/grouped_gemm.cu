// P3, P4 of bf16 parts, and the choice of a kernel.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  return args.no_codes ? grouped_gemm_kind<false>(stream, args) : grouped_gemm_codes(stream, args);
}

}  // namespace smoe::cu
