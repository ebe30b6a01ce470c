// P3, P4 of matrices of any format whose rows no wide tile can read: of three parts, or of odd width.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

// Half the rows of the large tile of parts, as groups are summed in accumulators of their own.
int grouped_gemm_codes(Stream stream, const GroupedGemmArgs& args) {
  return grouped_gemm_tiles<64, true>(stream, args);
}

}  // namespace smoe::cu
