// P3, P4 on mma.sync: matrices of bf16 parts, and the choice of a kernel.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

}  // namespace

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  if (args.experts > kGroupedExperts) return kInvalidValue;
  return args.bf16_only || args.no_codes ? grouped_gemm_kind<false>(stream, args) : grouped_gemm_codes(stream, args);
}

}  // namespace smoe::cu
