#include "kernels/attention/prefill_fma.cuh"
#include "kernels/attention/prefill_mma.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int RG, int CG, int KT>
int launch_mma(Stream stream, const AttendArgs& args) {
  using S = PrefillShape<RG, CG, KT>;
  const Shape shape{prefill_blocks(args, S::kRows), S::kThreads, prefill_shared_bytes<S, KT>(args), true};
  return launch(stream, shape, &prefill_mma<RG, CG, KT>, args);
}

template <int VC>
int launch_fma(Stream stream, const AttendArgs& args) {
  const Shape shape{prefill_blocks(args, kFmaRows), kFmaThreads, fma_shared_bytes<VC>(), true};
  return launch(stream, shape, &prefill_fma<VC>, args);
}

}  // namespace

int launch_attend_prefill(Stream stream, const AttendArgs& args) {
  if (args.max_tokens <= 0) return 0;
  if (args.value_dim > 512) return kInvalidValue;
  if (args.cache.f32) {
    if (args.value_dim <= 128) return launch_fma<2>(stream, args);
    return args.value_dim <= 256 ? launch_fma<4>(stream, args) : launch_fma<8>(stream, args);
  }
  // Every one fits the 99 KB of a block on consumer GPUs with keys of up to 256 elements, or 576 in the last.
  if (args.value_dim <= 128) return launch_mma<4, 1, 64>(stream, args);
  return args.value_dim <= 256 ? launch_mma<4, 2, 32>(stream, args) : launch_mma<2, 4, 32>(stream, args);
}

}  // namespace smoe::cu
