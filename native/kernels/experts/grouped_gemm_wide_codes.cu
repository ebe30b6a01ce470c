// P3, P4 of matrices of any format.
#include "kernels/experts/grouped_gemm_wide_codes_launch.h"

namespace smoe::cu {

int grouped_gemm_wide_codes_tiles(Stream stream, const GroupedGemmArgs& args) {
  return launch_wide_codes<false>(stream, args);
}

}  // namespace smoe::cu
