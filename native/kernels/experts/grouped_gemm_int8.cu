// P3, P4 with int8 activations: a kernel per tile.
#include "kernels/experts/grouped_gemm_int8.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int TN>
int grouped_gemm_int8_tiles(Stream stream, const GroupedGemmInt8Args& args) {
  return launch(stream, {args.map.blocks > 0 ? args.map.blocks : 1, kGemmThreads, kGroupedInt8Shared<TN>, true},
                &grouped_gemm_int8<TN>, args);
}

}  // namespace

int launch_grouped_gemm_int8(Stream stream, const GroupedGemmInt8Args& args) {
  const GroupedGemmArgs& map = args.map;
  if (map.max_rows <= 0 || map.experts <= 0 || map.features <= 0) return 0;
  if (map.experts > kGroupedExperts) return kInvalidValue;
  const bool many = map.max_rows > int64_t{64} * (map.max_groups > 0 ? map.max_groups : 1);
  return many ? grouped_gemm_int8_tiles<64>(stream, args) : grouped_gemm_int8_tiles<32>(stream, args);
}

}  // namespace smoe::cu
