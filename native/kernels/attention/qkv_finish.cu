#include "kernels/attention/qkv_finish.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_qkv_finish(Stream stream, const QkvFinishArgs& args) {
  const int64_t blocks = args.max_tokens * qkv_units(args);
  if (blocks <= 0) return 0;
  if (args.rope.interleaved || 2 * args.rope.half > args.head_dim) return 1;  // cudaErrorInvalidValue
  const Shape shape{blocks, kFinishThreads, angles_bytes(args.rope), true};
  return launch(stream, shape, args.cache.f32 ? &qkv_finish<float> : &qkv_finish<bf16>, args);
}

}  // namespace smoe::cu
