// CudaRuntime over cudart. Nothing here throws; a stream carries its device, so that any thread may use it.
#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "cuda/launch_stream.h"

namespace smoe::cu {
namespace {

struct DeviceStream {
  int device;
  cudaStream_t stream;
};

struct DeviceGraph {
  int device;
  cudaGraphExec_t executable;
};

char* error_text() {
  static thread_local char text[320] = "";
  return text;
}

CudaError kind_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return CudaError::None;
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorStubLibrary:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorCallRequiresNewerDriver:
      return CudaError::NoDriver;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
      return CudaError::NoDevice;
    case cudaErrorMemoryAllocation:
      return CudaError::OutOfMemory;
    // The context is broken: the process has to start over (CUDA Runtime API, cudaError_t).
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown:
      return CudaError::DeviceLost;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidPtx:
    case cudaErrorJitCompilerNotFound:
      return CudaError::Unsupported;
    default:
      return CudaError::Launch;
  }
}

// Notes the error and takes it out of cudart's per-thread state, or the next call would seem to have failed. A sticky
// error stays whatever is cleared.
CudaError failed(const char* call, cudaError_t error) {
  if (error == cudaSuccess) return CudaError::None;
  std::snprintf(error_text(), 320, "%s: %s (%s)", call, cudaGetErrorName(error), cudaGetErrorString(error));
  cudaGetLastError();
  return kind_of(error);
}

#define SMOE_CUDA_TRY(call)                                 \
  do {                                                      \
    const CudaError smoe_error_ = failed(#call, call);      \
    if (smoe_error_ != CudaError::None) return smoe_error_; \
  } while (0)

const char* last_error() { return error_text(); }

CudaError versions(CudaVersions* out) {
  *out = {};
  SMOE_CUDA_TRY(cudaRuntimeGetVersion(&out->runtime));
  SMOE_CUDA_TRY(cudaDriverGetVersion(&out->driver));  // 0, and success, where there is no driver
  if (out->driver == 0) {
    std::snprintf(error_text(), 320, "no CUDA driver is installed");
    return CudaError::NoDriver;
  }
  const cudaError_t error = cudaGetDeviceCount(&out->devices);
  if (error != cudaSuccess) out->devices = 0;
  return failed("cudaGetDeviceCount", error);
}

// Every entry that names a device passes here; looks at attributes only, which makes no context.
CudaError check_device(int device) {
  int count = 0, major = 0, minor = 0;
  SMOE_CUDA_TRY(cudaGetDeviceCount(&count));
  if (device < 0 || device >= count) {
    std::snprintf(error_text(), 320, "device %d does not exist: there are %d", device, count);
    return CudaError::NoDevice;
  }
  SMOE_CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major >= 8) return CudaError::None;
  SMOE_CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  std::snprintf(error_text(), 320, "device %d has compute capability %d.%d, at least 8.0 is needed", device, major,
                minor);
  return CudaError::Unsupported;
}

// Filled for a device that is too old as well, so that it can be named.
CudaError device_info(int device, CudaDeviceInfo* out) {
  *out = {};
  const CudaError usable = check_device(device);
  if (usable != CudaError::None && usable != CudaError::Unsupported) return usable;
  cudaDeviceProp properties;
  SMOE_CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  std::snprintf(out->name, sizeof out->name, "%s", properties.name);
  out->major = properties.major;
  out->minor = properties.minor;
  out->sms = properties.multiProcessorCount;
  out->memory = properties.totalGlobalMem;
  out->l2 = static_cast<size_t>(properties.l2CacheSize);
  if (usable != CudaError::None) return usable;
  SMOE_CUDA_TRY(cudaSetDevice(device));
  size_t total = 0;
  SMOE_CUDA_TRY(cudaMemGetInfo(&out->memory_free, &total));
  return CudaError::None;
}

CudaError allocate(int device, size_t bytes, void** out) {
  *out = nullptr;
  const CudaError usable = check_device(device);
  if (usable != CudaError::None) return usable;
  SMOE_CUDA_TRY(cudaSetDevice(device));
  SMOE_CUDA_TRY(cudaMalloc(out, bytes == 0 ? 1 : bytes));
  return CudaError::None;
}

void release(int device, void* memory) {
  if (memory == nullptr || failed("cudaSetDevice", cudaSetDevice(device)) != CudaError::None) return;
  failed("cudaFree", cudaFree(memory));
}

// Portable: pinned for every device.
CudaError allocate_host(size_t bytes, void** out) {
  *out = nullptr;
  SMOE_CUDA_TRY(cudaHostAlloc(out, bytes == 0 ? 1 : bytes, cudaHostAllocPortable));
  return CudaError::None;
}

void release_host(void* memory) {
  if (memory != nullptr) failed("cudaFreeHost", cudaFreeHost(memory));
}

// Non-blocking: work of others on the legacy default stream must not order ours.
CudaError create_stream(int device, void** out) {
  *out = nullptr;
  const CudaError usable = check_device(device);
  if (usable != CudaError::None) return usable;
  SMOE_CUDA_TRY(cudaSetDevice(device));
  DeviceStream* const stream = new (std::nothrow) DeviceStream{device, nullptr};
  if (stream == nullptr) return failed("new", cudaErrorMemoryAllocation);
  const CudaError error =
      failed("cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking));
  if (error != CudaError::None) {
    delete stream;
    return error;
  }
  *out = stream;
  return CudaError::None;
}

void destroy_stream(int, void* stream) {
  DeviceStream* const mine = static_cast<DeviceStream*>(stream);
  if (mine == nullptr) return;
  if (failed("cudaSetDevice", cudaSetDevice(mine->device)) == CudaError::None) {
    failed("cudaStreamDestroy", cudaStreamDestroy(mine->stream));
  }
  delete mine;
}

CudaError copy(void* stream, void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return CudaError::None;
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  SMOE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kind, on));
  return CudaError::None;
}

CudaError copy_in(void* stream, void* to_device, const void* from_host, size_t bytes) {
  return copy(stream, to_device, from_host, bytes, cudaMemcpyHostToDevice);
}

CudaError copy_out(void* stream, void* to_host, const void* from_device, size_t bytes) {
  return copy(stream, to_host, from_device, bytes, cudaMemcpyDeviceToHost);
}

CudaError fill(void* stream, void* memory, int byte, size_t bytes) {
  if (bytes == 0) return CudaError::None;
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  SMOE_CUDA_TRY(cudaMemsetAsync(memory, byte, bytes, on));
  return CudaError::None;
}

CudaError synchronize(void* stream) {
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  SMOE_CUDA_TRY(cudaStreamSynchronize(on));
  return CudaError::None;
}

// Thread-local: what other threads allocate or wait for meanwhile neither fails nor spoils the capture.
CudaError begin_capture(void* stream) {
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  SMOE_CUDA_TRY(cudaStreamBeginCapture(on, cudaStreamCaptureModeThreadLocal));
  return CudaError::None;
}

CudaError end_capture(void* stream, void** graph) {
  *graph = nullptr;
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  cudaGraph_t recorded = nullptr;
  SMOE_CUDA_TRY(cudaStreamEndCapture(on, &recorded));
  cudaGraphExec_t executable = nullptr;
  const CudaError error = failed("cudaGraphInstantiate", cudaGraphInstantiate(&executable, recorded, 0));
  failed("cudaGraphDestroy", cudaGraphDestroy(recorded));
  if (error != CudaError::None) return error;
  DeviceGraph* const mine = new (std::nothrow) DeviceGraph{static_cast<DeviceStream*>(stream)->device, executable};
  if (mine == nullptr) {
    cudaGraphExecDestroy(executable);
    return failed("new", cudaErrorMemoryAllocation);
  }
  *graph = mine;
  return CudaError::None;
}

CudaError launch_graph(void* stream, void* graph) {
  Stream on;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  SMOE_CUDA_TRY(cudaGraphLaunch(static_cast<DeviceGraph*>(graph)->executable, on));
  return CudaError::None;
}

void destroy_graph(void* graph) {
  DeviceGraph* const mine = static_cast<DeviceGraph*>(graph);
  if (mine == nullptr) return;
  if (failed("cudaSetDevice", cudaSetDevice(mine->device)) == CudaError::None) {
    failed("cudaGraphExecDestroy", cudaGraphExecDestroy(mine->executable));
  }
  delete mine;
}

}  // namespace

CudaError enter_stream(void* stream, Stream* out) {
  const DeviceStream* const mine = static_cast<const DeviceStream*>(stream);
  SMOE_CUDA_TRY(cudaSetDevice(mine->device));
  *out = mine->stream;
  return CudaError::None;
}

CudaError left_stream(void*, int code) { return failed("launch", static_cast<cudaError_t>(code)); }

const CudaRuntime& cuda_runtime() {
  static const CudaRuntime runtime = {
      "cuda",        last_error,   versions,      device_info,    allocate,     release,
      allocate_host, release_host, create_stream, destroy_stream, copy_in,      copy_out,
      fill,          synchronize,  begin_capture, end_capture,    launch_graph, destroy_graph,
  };
  return runtime;
}

}  // namespace smoe::cu
