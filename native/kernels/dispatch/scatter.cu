// P2, and the histogram of given assignments.
#include "kernels/dispatch/scatter.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_histogram(Stream stream, const HistogramArgs& args) {
  const int64_t blocks = (args.tokens + kRouteManyTokens - 1) / kRouteManyTokens;
  if (blocks <= 0 || args.experts <= 0) return 0;
  return launch(stream, {blocks, kManyThreads, histogram_shared_bytes(args.experts), true}, &histogram, args);
}

// No tokens: one block, for the offsets.
int launch_scatter(Stream stream, const ScatterArgs& args) {
  const int64_t blocks = (args.tokens + kRouteManyTokens - 1) / kRouteManyTokens;
  const Shape shape{blocks > 0 ? blocks : 1, kManyThreads, scatter_shared_bytes(args.experts), true};
  return launch(stream, shape, &scatter, args);
}

}  // namespace smoe::cu
