// P3, P4 for nvcc.
#include "kernels/experts/grouped_gemm.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  if (args.max_rows > int64_t{64} * (args.max_groups > 0 ? args.max_groups : 1)) {
    return launch(stream, {blocks, kGemmThreads, GemmShape<128>::kBytes, true}, &grouped_gemm<128>, args);
  }
  return launch(stream, {blocks, kGemmThreads, GemmShape<32>::kBytes, true}, &grouped_gemm<32>, args);
}

}  // namespace smoe::cu
