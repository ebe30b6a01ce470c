// P3, P4 of matrices of any format.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {

int grouped_gemm_codes(Stream stream, const GroupedGemmArgs& args) { return grouped_gemm_kind<true>(stream, args); }

}  // namespace smoe::cu
