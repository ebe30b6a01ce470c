// Activations to int8.
#include "kernels/experts/quantize_rows.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_quantize_rows(Stream stream, const QuantizeRowsArgs& args) {
  if (args.max_rows <= 0 || args.k <= 0 || args.out.count <= 0) return 0;
  if (args.out.dispatched && args.experts <= 0) return 0;
  const int64_t most = args.max_rows * args.out.count, limit = args.blocks > 0 ? args.blocks : 1;
  return launch(stream, {most < limit ? most : limit, kQuantizeThreads, quantize_shared_bytes(args.k), true},
                &quantize_rows, args);
}

}  // namespace smoe::cu
