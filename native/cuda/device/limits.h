// What the current device has of something, for the choice of a kernel. emu/limits.h is the twin.
#pragma once

#include "cuda/device/threads.h"

namespace smoe::cu {

// 0 when the device cannot be asked.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess) {
    return value;
  }
  cudaGetLastError();  // the launch of something else must not report it
  return 0;
}

// Bytes of shared memory that a block may have, static arrays included.
inline size_t shared_limit(Stream) {
  return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}
inline int sm_count(Stream) { return device_attribute(cudaDevAttrMultiProcessorCount); }

}  // namespace smoe::cu
