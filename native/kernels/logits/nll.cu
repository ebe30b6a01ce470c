// Negative log-likelihood for nvcc.
#include "kernels/logits/nll.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_nll(Stream stream, const NllArgs& args) {
  if (args.tokens <= 0 || args.vocab <= 0) return 0;
  return launch(stream, {args.tokens, kNllThreads, 0, true}, &nll, args);
}

}  // namespace smoe::cu
