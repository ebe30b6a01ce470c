#include "kernels/attention/latent_finish.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_latent_finish(Stream stream, const LatentFinishArgs& args) {
  if (args.max_tokens <= 0) return 0;
  if (2 * args.rope.half > args.rope_dim) return 1;  // cudaErrorInvalidValue
  const Shape shape{args.max_tokens * latent_units(args), kFinishThreads, angles_bytes(args.rope), true};
  return launch(stream, shape, args.cache.f32 ? &latent_finish<float> : &latent_finish<bf16>, args);
}

}  // namespace smoe::cu
