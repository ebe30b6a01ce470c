// P3, P4 of matrices with residual planes whose rows no wide tile can read: of three parts, or of odd width.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

int grouped_gemm_nested(Stream stream, const GroupedGemmArgs& args) {
  return grouped_gemm_tiles<64, true, true>(stream, args);
}

}  // namespace smoe::cu
