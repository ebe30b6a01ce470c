// What the host needs of a CUDA runtime, as C functions: the plug-in smoe_cuda fills it from cudart, the emulation from
// its device. Device ids count from 0. Every function returns a CudaError; last_error() says more.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smoe::cu {

enum class CudaError : int {
  None = 0,
  NoDriver = 1,     // no driver, or one too old for this build
  NoDevice = 2,     // no device with this id
  OutOfMemory = 3,  // of the device, or of pinned host memory
  DeviceLost = 4,   // sticky: an illegal access, a launch failure, an ECC error; nothing on this device works any more
  Launch = 5,       // a launch, or another call, that was refused; the device is as it was
  Unsupported = 6,  // a device older than sm_80, or without code in this build
};

struct CudaDeviceInfo {
  char name[256];
  int major, minor;  // compute capability
  int sms;
  size_t memory, memory_free, l2;
};

struct CudaVersions {
  int driver, runtime;  // 1000 * major + 10 * minor; driver 0: none
  int devices;
};

struct CudaRuntime {
  const char* kind;             // "cuda" or "emulation"
  const char* (*last_error)();  // of this thread
  CudaError (*versions)(CudaVersions* out);
  CudaError (*device_info)(int device, CudaDeviceInfo* out);

  // Blocking allocations; a pool above keeps them (cuda/host/). Contents are undefined.
  CudaError (*allocate)(int device, size_t bytes, void** out);
  void (*release)(int device, void* memory);
  CudaError (*allocate_host)(size_t bytes, void** out);  // pinned
  void (*release_host)(void* memory);

  // A stream belongs to a device; calls may come from any thread, from one at a time.
  CudaError (*create_stream)(int device, void** out);
  void (*destroy_stream)(int device, void* stream);
  // Host memory must stay until the stream has been synchronized.
  CudaError (*copy_in)(void* stream, void* to_device, const void* from_host, size_t bytes);
  CudaError (*copy_out)(void* stream, void* to_host, const void* from_device, size_t bytes);
  CudaError (*fill)(void* stream, void* memory, int byte, size_t bytes);
  CudaError (*synchronize)(void* stream);

  // Everything the stream is given between begin and end is recorded, not run.
  CudaError (*begin_capture)(void* stream);
  CudaError (*end_capture)(void* stream, void** graph);
  CudaError (*launch_graph)(void* stream, void* graph);
  void (*destroy_graph)(void* graph);
};

// Of what this binary was built with: device/runtime.cu or emu/runtime.cc. Looks at no device.
const CudaRuntime& cuda_runtime();

}  // namespace smoe::cu
