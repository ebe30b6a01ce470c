// The emulated CUDA devices of the tests: several, so that a test may lose one (4 and 5, and 6 and 7 by those of the
// decoder) or open one in its own way (3). With SMOE_TEST_ON_GPU the library is the plug-in, the device the first GPU,
// and nothing can be asked of it.
#pragma once

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cstdlib>

#include "device/device.h"

namespace smoe_test {

using namespace smoe;

constexpr int kEmulatedDevices = 8;

inline const CudaLibrary& emulation() {
  static const bool chosen = [] {
    setenv("SMOE_CUDA_EMU_DEVICES", "8", 1);
    set_cuda_library(SMOE_CUDA_EMU_LIBRARY);
    return true;
  }();
  (void)chosen;
  return cuda_library();
}

#ifdef SMOE_TEST_ON_GPU
inline void emulate(const char*, long long = 0) {}
#else
// A fault or a way to run, as cuda/emu/inject.h lists them.
inline void emulate(const char* kind, long long value = 0) {
  REQUIRE_MESSAGE(emulation().table != nullptr, emulation().why);
  void* const library = dlopen(SMOE_CUDA_EMU_LIBRARY, RTLD_NOW | RTLD_LOCAL);  // the one that is loaded
  REQUIRE(library != nullptr);
  auto* const inject = reinterpret_cast<int (*)(const char*, long long)>(dlsym(library, "smoe_cuda_emu_inject"));
  REQUIRE((inject != nullptr));
  CHECK(inject(kind, value) == 0);
  dlclose(library);
}
#endif

inline std::shared_ptr<Device> emulated_device(int index = 0) {
  (void)emulation();
  std::shared_ptr<Device> device;
  const Status status = Device::open(index, &device);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return device;
}

}  // namespace smoe_test
