#include "kernels/attention/prefill_mma.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int RG, int CG, int KT>
int launch_as(Stream stream, const AttendArgs& args) {
  using S = PrefillShape<RG, CG, KT>;
  const Shape shape{prefill_blocks(args, S::kRows), S::kThreads, prefill_shared_bytes<S, KT>(args), true};
  return launch(stream, shape, &prefill_mma<RG, CG, KT>, args);
}

}  // namespace

// Every kernel fits the 99 KB that a block has on consumer GPUs with keys of up to 256 elements, the last one with 576.
int launch_attend_prefill(Stream stream, const AttendArgs& args) {
  if (args.max_tokens <= 0) return 0;
  if (args.value_dim > 512) return kInvalidValue;
  if (args.cache.f32) return launch_prefill_fma(stream, args);
  if (args.value_dim <= 128) return launch_as<4, 1, 64>(stream, args);
  return args.value_dim <= 256 ? launch_as<4, 2, 32>(stream, args) : launch_as<2, 4, 32>(stream, args);
}

}  // namespace smoe::cu
