// TEMPORARY: launches that other branches write; to be deleted when they are merged.
#include "cuda/cu.h"
#include "kernels/cuda_launches.h"

namespace smoe::cu {

__attribute__((weak)) int launch_sample(Stream, const SampleArgs&) { return 1; }

}  // namespace smoe::cu
