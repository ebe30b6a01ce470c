// Sampling for nvcc: four launches, because sums over the row lie between them.
#include <initializer_list>

#include "kernels/cuda_launches.h"
#include "kernels/logits/sample_cut.cuh"
#include "kernels/logits/sample_draw.cuh"

namespace smoe::cu {

int launch_sample(Stream stream, const SampleArgs& args) {
  if (args.vocab > INT32_MAX) return 1;  // cudaErrorInvalidValue: ids are 32 bits
  const int64_t chunks = sample_chunks(args.vocab);
  if (chunks > 0) {
    for (const auto kernel : {&sample_best, &sample_weigh, &sample_gather}) {
      const int error = launch(stream, {chunks, kSampleThreads, 0, true}, kernel, args);
      if (error != 0) return error;
    }
  }
  return launch(stream, {1, kSampleThreads, 0, true}, &sample_draw, args);
}

}  // namespace smoe::cu
