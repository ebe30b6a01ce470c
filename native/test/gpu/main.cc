// doctest's main for tests that need a device: says which one they run on, or why there is none, before anything else.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>

#include "cuda/runtime.h"

constexpr int kNoDevice = 3;

int main(int argc, char** argv) {
  using namespace smoe::cu;
  doctest::Context context(argc, argv);
  if (context.shouldExit()) return context.run();  // --help, --list-test-cases
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "-ltc", 4) == 0 || std::strncmp(argv[i], "--list-", 7) == 0) return context.run();
  }
  CudaDeviceInfo info;
  const CudaError error = cuda_runtime().device_info(0, &info);
  if (error != CudaError::None) {
    std::fprintf(stderr, "no device: %s\n", cuda_runtime().last_error());
    return kNoDevice;
  }
  std::fprintf(stderr, "device: %s, compute capability %d.%d\n", info.name, info.major, info.minor);
  return context.run();
}
