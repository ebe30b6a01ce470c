// What the current device has of something, for the choice of a kernel. emu/limits.h is the twin.
#pragma once

#include "cuda/device/threads.h"

namespace smoe::cu {

// Bytes of shared memory that a block may have, static arrays included.
inline size_t shared_limit(Stream) {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const cudaError_t error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return error == cudaSuccess ? static_cast<size_t>(bytes) : 0;
}

}  // namespace smoe::cu
