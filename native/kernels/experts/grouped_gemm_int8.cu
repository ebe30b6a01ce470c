// P3, P4 with int8 activations: a kernel per tile.
#include "kernels/experts/grouped_gemm_int8.cuh"

#include "cuda/limits.h"
#include "kernels/cuda_launches.h"
#include "kernels/experts/gemm_wide.cuh"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t
static_assert(kGroupedInt8Shared<64> + kGroupedStatic <= kLeastShared, "fits every GPU");

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
  return many && kGroupedInt8Shared<128> + kGroupedStatic <= shared_limit(stream)
             ? grouped_gemm_int8_tiles<128>(stream, args)
             : grouped_gemm_int8_tiles<64>(stream, args);
}

}  // namespace smoe::cu
