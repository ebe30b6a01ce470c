// P3, P4 on mma.sync for nvcc.
#include "kernels/experts/grouped_gemm.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int TN>
int launch_tiles(Stream stream, const GroupedGemmArgs& args) {
  return launch(stream, {args.blocks > 0 ? args.blocks : 1, kGemmThreads, kGroupedShared<TN>, true}, &grouped_gemm<TN>,
                args);
}

}  // namespace

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  if (args.experts > kGroupedExperts) return kInvalidValue;
  const bool many = args.max_rows > int64_t{64} * (args.max_groups > 0 ? args.max_groups : 1);
  return many ? launch_tiles<128>(stream, args) : launch_tiles<32>(stream, args);
}

}  // namespace smoe::cu
