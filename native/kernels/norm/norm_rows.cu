// Norms of rows for nvcc.
#include "kernels/norm/norm_rows.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_norm_rows(Stream stream, const NormRowsArgs& args) {
  if (args.max_tokens <= 0 || args.width <= 0) return 0;
  return launch(stream, {args.max_tokens, kNormThreads, 0, true}, &norm_rows, args);
}

}  // namespace smoe::cu
