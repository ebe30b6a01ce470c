// P3, P4 of matrices with residual planes.
#include "kernels/experts/grouped_gemm_wide_codes_launch.h"

namespace smoe::cu {

int grouped_gemm_wide_nested_tiles(Stream stream, const GroupedGemmArgs& args) {
  return launch_wide_codes<true>(stream, args);
}

}  // namespace smoe::cu
