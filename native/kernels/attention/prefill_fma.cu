#include "kernels/attention/prefill_fma.cuh"

namespace smoe::cu {
namespace {

template <int VC>
int launch_as(Stream stream, const AttendArgs& args) {
  const Shape shape{prefill_blocks(args, kFmaRows), kFmaThreads, fma_shared_bytes<VC>(), true};
  return launch(stream, shape, &prefill_fma<VC>, args);
}

}  // namespace

int launch_prefill_fma(Stream stream, const AttendArgs& args) {
  if (args.value_dim <= 128) return launch_as<2>(stream, args);
  return args.value_dim <= 256 ? launch_as<4>(stream, args) : launch_as<8>(stream, args);
}

}  // namespace smoe::cu
