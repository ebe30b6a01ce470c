// Launches through the table of a device.
#pragma once

#include "device/device.h"

namespace smoe {

// `what` begins the message of a failure.
template <class Args>
Status launch(Device& device, cu::CudaError (*entry)(void*, const Args*), const Args& args, const char* what) {
  return device.check(entry(device.stream(), &args), what);
}

// The grouped GEMM for this device: wgmma takes bf16 alone.
using GroupedGemm = cu::CudaError (*)(void* stream, const cu::GroupedGemmArgs* args);
inline GroupedGemm grouped_gemm(const Device& device, bool bf16_only) {
  const cu::CudaDeviceInfo& info = device.info();
  const bool hopper = info.major == 9 && info.minor == 0 && bf16_only;
  return hopper ? device.table().grouped_gemm_hopper : device.table().grouped_gemm;
}

}  // namespace smoe
