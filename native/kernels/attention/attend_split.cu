#include "kernels/attention/attend_split.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <class T, int HG, int VT>
int launch_as(Stream stream, const AttendArgs& args) {
  const int group = args.heads / args.cache.kv_heads, chunks = (group + HG - 1) / HG;
  const int64_t blocks = args.max_tokens * args.cache.kv_heads * chunks * args.splits;
  const Shape shape{blocks, kAttendThreads, attend_shared_bytes<HG, VT>(args.cache.key_dim), true};
  return launch(stream, shape, &attend_split<T, HG, VT>, args);
}

// As many heads share a block as registers for their sums allow.
template <class T>
int launch_for(Stream stream, const AttendArgs& args) {
  if (args.value_dim > 512) return kInvalidValue;
  const int group = args.heads / args.cache.kv_heads;
  if (args.value_dim > 128) return group > 1 ? launch_as<T, 4, 4>(stream, args) : launch_as<T, 1, 4>(stream, args);
  if (group == 1) return launch_as<T, 1, 1>(stream, args);
  return group <= 4 ? launch_as<T, 4, 1>(stream, args) : launch_as<T, 8, 1>(stream, args);
}

}  // namespace

int launch_attend_split(Stream stream, const AttendArgs& args) {
  if (args.max_tokens <= 0) return 0;
  return args.cache.f32 ? launch_for<float>(stream, args) : launch_for<bf16>(stream, args);
}

int launch_attend_merge(Stream stream, const AttendArgs& args) {
  if (args.max_tokens <= 0) return 0;
  return launch(stream, {args.max_tokens * args.heads, kAttendThreads, 0, true}, &attend_merge, args);
}

}  // namespace smoe::cu
