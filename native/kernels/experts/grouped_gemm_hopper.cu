// P3, P4 on wgmma for nvcc.
#include "kernels/experts/grouped_gemm_hopper.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

// Rows of x are copied 16 bytes at a time.
bool supported(const GroupedGemmArgs& args) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(args.x.data) | static_cast<uintptr_t>((args.x_stride | args.k) * 2);
  return args.bf16_only && args.x.parts == 1 && at % 16 == 0 && args.x_stride < int64_t{1} << 31 &&
         args.experts <= kGroupedExperts;
}

template <int TN, int M, int W>
int launch_tiles(Stream stream, const GroupedGemmArgs& args) {
  using S = HopperShape<TN, M, W>;
  if (!runs_wgmma(stream, &grouped_gemm_hopper<TN, M, W>)) return launch_grouped_gemm(stream, args);
  return launch(stream, {args.blocks > 0 ? args.blocks : 1, S::kThreads, S::kBytes, true},
                &grouped_gemm_hopper<TN, M, W>, args);
}

}  // namespace

int launch_grouped_gemm_hopper(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  if (!supported(args)) return launch_grouped_gemm(stream, args);
  const int64_t groups = args.max_groups > 0 ? args.max_groups : 1, rows = args.max_rows / groups;
  if (rows > 64) return launch_tiles<128, 2, 2>(stream, args);
  if (rows > 32) return launch_tiles<64, 2, 2>(stream, args);
  if (rows > 16) return launch_tiles<32, 1, 2>(stream, args);
  return launch_tiles<16, 1, 2>(stream, args);
}

}  // namespace smoe::cu
