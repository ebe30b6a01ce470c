// Embedding for nvcc.
#include "kernels/norm/embed.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_embed(Stream stream, const EmbedArgs& args) {
  if (args.max_tokens <= 0 || args.hidden <= 0) return 0;
  if (args.table.format != AtomFormat::Bf16 && args.table.format != AtomFormat::Bf16x3) return 1;  // invalid value
  return launch(stream, {args.max_tokens, kEmbedThreads, 0, true}, &embed, args);
}

}  // namespace smoe::cu
