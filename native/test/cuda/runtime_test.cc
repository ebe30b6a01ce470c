// CudaRuntime of the emulation: memory, copies, launches, recorded graphs, and faults on purpose.
#include "cuda/runtime.h"

#include <string>
#include <vector>

#include "cuda/emu/inject.h"
#include "cuda/launch_stream.h"
#include "emu_test.h"
#include "kernels/reduce.cuh"

namespace smoe::cu::test {
namespace {

struct Fixture {
  const CudaRuntime& runtime = cuda_runtime();
  void* stream = nullptr;
  Fixture() {
    smoe_cuda_emu_inject("none", 0);
    REQUIRE(runtime.create_stream(0, &stream) == CudaError::None);
  }
  ~Fixture() {
    runtime.destroy_stream(0, stream);
    smoe_cuda_emu_inject("none", 0);
  }
  void* allocate(size_t bytes) {
    void* memory = nullptr;
    REQUIRE(runtime.allocate(0, bytes, &memory) == CudaError::None);
    return memory;
  }
  template <Bug bug = Bug::None>
  CudaError reduce(const void* in, void* out, int threads = 256) {
    Stream on = nullptr;
    const CudaError refused = enter_stream(stream, &on);
    if (refused != CudaError::None) return refused;
    const BlockReduceArgs args{static_cast<const float*>(in), static_cast<float*>(out)};
    return left_stream(stream, launch(on, {1, threads, 0, false}, &block_reduce<bug>, args));
  }
  std::string error() { return runtime.last_error(); }
};

TEST_CASE_FIXTURE(Fixture, "emulated runtime: copies, launches and graphs") {
  CudaVersions versions;
  CHECK(runtime.versions(&versions) == CudaError::None);
  CHECK(versions.devices == 1);
  CudaDeviceInfo info;
  CHECK(runtime.device_info(0, &info) == CudaError::None);
  CHECK(info.major == 9);
  CHECK(runtime.device_info(1, &info) == CudaError::NoDevice);
  void* const in = allocate(1024);
  void* const out = allocate(4);
  std::vector<float> host(256, 1.0f);
  float sum = 0;
  CHECK(runtime.copy_in(stream, in, host.data(), 1024) == CudaError::None);
  CHECK(reduce(in, out) == CudaError::None);
  CHECK(runtime.copy_out(stream, &sum, out, 4) == CudaError::None);
  CHECK(runtime.synchronize(stream) == CudaError::None);
  CHECK(sum == 256.0f);

  // Nothing runs while captured; a replay reads what lies there then.
  sum = 0;
  void* graph = nullptr;
  void* refused = nullptr;
  CHECK(runtime.begin_capture(stream) == CudaError::None);
  CHECK(runtime.allocate(0, 4, &refused) == CudaError::Launch);
  CHECK(runtime.copy_in(stream, in, host.data(), 1024) == CudaError::None);
  CHECK(reduce(in, out) == CudaError::None);
  CHECK(runtime.copy_out(stream, &sum, out, 4) == CudaError::None);
  CHECK(runtime.end_capture(stream, &graph) == CudaError::None);
  CHECK(sum == 0);
  for (float value : {2.0f, 3.0f}) {
    host.assign(256, value);
    CHECK(runtime.launch_graph(stream, graph) == CudaError::None);
    CHECK(sum == 256 * value);
  }
  runtime.destroy_graph(graph);
  CHECK(runtime.begin_capture(stream) == CudaError::None);
  CHECK(runtime.synchronize(stream) == CudaError::Launch);
  CHECK(runtime.end_capture(stream, &graph) == CudaError::Launch);
  CHECK(graph == nullptr);

  // Refusals leave the device as it was.
  CHECK(runtime.copy_in(stream, out, host.data(), 8) == CudaError::Launch);
  CHECK(error().find("outside") != std::string::npos);
  CHECK(reduce(in, out, 4096) == CudaError::Launch);
  CHECK(runtime.fill(stream, in, 0, 1024) == CudaError::None);
  CHECK(reduce(in, out) == CudaError::None);
  CHECK(runtime.copy_out(stream, &sum, out, 4) == CudaError::None);
  CHECK(sum == 0);

  // A fault of a kernel loses it.
  CHECK(reduce<Bug::OutOfBounds>(in, out) == CudaError::DeviceLost);
  CHECK(error().find("reduce.cuh") != std::string::npos);
  CHECK(runtime.synchronize(stream) == CudaError::DeviceLost);
  CHECK(runtime.allocate(0, 4, &refused) == CudaError::DeviceLost);
  runtime.release(0, in);
  runtime.release(0, out);
}

TEST_CASE_FIXTURE(Fixture, "emulated runtime: injected faults") {
  void* memory = nullptr;
  CudaVersions versions;
  CudaDeviceInfo info;
  CHECK(smoe_cuda_emu_inject("nonsense", 0) == 1);
  smoe_cuda_emu_inject("no-driver", 0);
  CHECK(runtime.versions(&versions) == CudaError::NoDriver);
  CHECK(versions.driver == 0);
  smoe_cuda_emu_inject("none", 0);
  smoe_cuda_emu_inject("no-device", 0);
  CHECK(runtime.allocate(0, 4, &memory) == CudaError::NoDevice);
  smoe_cuda_emu_inject("none", 0);
  smoe_cuda_emu_inject("old-device", 0);
  CHECK(runtime.device_info(0, &info) == CudaError::Unsupported);
  CHECK(info.major == 7);
  smoe_cuda_emu_inject("none", 0);
  smoe_cuda_emu_inject("out-of-memory", 1);
  void* const first = allocate(4);
  CHECK(runtime.allocate(0, 4, &memory) == CudaError::OutOfMemory);
  void* const third = allocate(4);
  smoe_cuda_emu_inject("synchronize", 1);
  CHECK(runtime.synchronize(stream) == CudaError::None);
  CHECK(runtime.synchronize(stream) == CudaError::DeviceLost);
  CHECK(runtime.fill(stream, first, 0, 4) == CudaError::DeviceLost);
  smoe_cuda_emu_inject("none", 0);
  smoe_cuda_emu_inject("launch", 0);
  CHECK(reduce(first, third) == CudaError::DeviceLost);
  CHECK(runtime.fill(stream, first, 0, 4) == CudaError::DeviceLost);
  runtime.release(0, first);
  runtime.release(0, third);
}

}  // namespace
}  // namespace smoe::cu::test
