// A device: its memory, its copies, and what becomes of it when something fails. Lost devices stay lost in this
// process, so the case that loses some takes 4 and 5.
#include "device/device.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "../emulated_device.h"
#include "../moe_layer_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

bool says(const Status& status, const char* part) { return status.message().find(part) != std::string::npos; }

}  // namespace

TEST_CASE("libraries that are no backend are refused with the reason (emulated)") {
  CHECK(load_cuda_library("").why == "this installation has no CUDA backend");
  const CudaLibrary missing = load_cuda_library("/nonexistent/smoe_cuda.so");
  CHECK(missing.table == nullptr);
  CHECK(missing.why.find("/nonexistent/smoe_cuda.so") != std::string::npos);
  const CudaLibrary other = load_cuda_library(SMOE_CUDA_OTHER_RELEASE);
  CHECK(other.table == nullptr);
  const std::string version = "(table version " + std::to_string(cu::kCudaTableVersion + 1) + " of";
  CHECK_MESSAGE(other.why.find("belongs to another release " + version) != std::string::npos, other.why);
  const CudaLibrary found = load_cuda_library(SMOE_CUDA_EMU_LIBRARY);
  CHECK_MESSAGE(found.table != nullptr, found.why);
  CHECK(found.path == SMOE_CUDA_EMU_LIBRARY);
}

TEST_CASE("devices that cannot be opened: why, and what to do (emulated)") {
  const auto opened = [](int index) {
    std::shared_ptr<Device> device;
    return Device::open(index, &device);
  };
  (void)emulation();
  Status status = opened(kEmulatedDevices);
  CHECK(status.code() == Code::DeviceUnavailable);
  CHECK_MESSAGE(says(status, "CUDA device 8"), status.message());
  CHECK(says(status, "devices 0 to 7 exist"));
  emulate("no-driver");
  status = opened(2);
  CHECK(status.code() == Code::DeviceUnavailable);
  CHECK_MESSAGE(says(status, "install an NVIDIA driver"), status.message());
  emulate("none");
  emulate("no-device");
  status = opened(2);
  CHECK(status.code() == Code::DeviceUnavailable);
  CHECK_MESSAGE(says(status, "make a GPU visible"), status.message());
  emulate("none");
  emulate("old-device");
  status = opened(2);
  CHECK(status.code() == Code::DeviceUnavailable);
  CHECK_MESSAGE(says(status, "8.0 or later"), status.message());
  emulate("none");
  CHECK(opened(2).ok());
}

TEST_CASE("one device object while it is in use, memory pooled and given back (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  CHECK(emulated_device().get() == device.get());
  const size_t before = device->bytes_in_use();
  DeviceBuffer a, b;
  REQUIRE(device->allocate(1000, &a).ok());
  CHECK(a.bytes() >= 1000);
  CHECK(device->bytes_in_use() == before + a.bytes());
  const void* const memory = a.data();
  b = std::move(a);
  CHECK(a.data() == nullptr);
  CHECK(b.data() == memory);
  b.release();
  b.release();
  CHECK(device->bytes_in_use() == before);
  CHECK(device->bytes_cached() >= 1000);
  REQUIRE(device->allocate(990, &a).ok());
  CHECK(a.data() == memory);  // about the same size: the same block
  REQUIRE(device->allocate(500, &b).ok());
  CHECK(b.data() != memory);
  a.release();
  REQUIRE(device->allocate(500, &a).ok());
  CHECK(a.data() != memory);  // twice as large would be waste
  a.release();
  b.release();
  CHECK(device->bytes_in_use() == before);
  device->trim();
  CHECK(device->bytes_cached() == 0);
}

TEST_CASE("memory that is kept is given back before an allocation is refused (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  device->trim();
  const size_t others = device->bytes_in_use();
  constexpr size_t kBlock = size_t{1} << 20;
  DeviceBuffer one, two, other;
  REQUIRE(device->allocate(kBlock, &one).ok());
  REQUIRE(device->allocate(kBlock, &two).ok());
  one.release();
  two.release();
  emulate("memory", static_cast<long long>(others + 2 * kBlock));
  REQUIRE(device->allocate(kBlock * 3 / 2, &other).ok());
  const Status status = device->allocate(kBlock, &one);
  CHECK(status.code() == Code::OutOfMemory);
  CHECK_MESSAGE(says(status, "CUDA device 0 (emulated GPU) has no room for 1 MiB more"), status.message());
  CHECK_FALSE(device->lost());
  emulate("none");
  CHECK(device->allocate(kBlock, &one).ok());
}

TEST_CASE("copies of every size, several waited for at once (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  const auto guard = device->lock();
  for (const size_t bytes : {size_t{1}, size_t{255}, size_t{4} << 20, (size_t{37} << 20) + 5}) {
    std::vector<unsigned char> from(bytes), to(bytes), half(bytes / 2);
    for (size_t i = 0; i < bytes; ++i) from[i] = static_cast<unsigned char>(i * 7 + i / 4093);
    DeviceBuffer memory;
    REQUIRE(device->allocate(bytes, &memory).ok());
    REQUIRE(device->copy_in(memory.data(), from.data(), bytes).ok());
    REQUIRE(device->copy_out_later(to.data(), memory.data(), bytes).ok());
    REQUIRE(device->copy_out_later(half.data(), memory.data(), half.size()).ok());
    REQUIRE(device->synchronize().ok());
    CHECK(to == from);
    CHECK(std::memcmp(half.data(), from.data(), half.size()) == 0);
    REQUIRE(device->fill(memory.data(), 0xAB, bytes).ok());
    REQUIRE(device->copy_out(to.data(), memory.data(), bytes).ok());
    CHECK(to == std::vector<unsigned char>(bytes, 0xAB));
  }
}

TEST_CASE("a refused call leaves the device as it was (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  const auto guard = device->lock();
  DeviceBuffer memory;
  REQUIRE(device->allocate(512, &memory).ok());
  const std::vector<unsigned char> bytes(5000);
  const Status status = device->copy_in(memory.data(), bytes.data(), bytes.size());
  CHECK(status.code() == Code::Internal);
  CHECK_MESSAGE(says(status, "copy to the device: CUDA device 0 (emulated GPU)"), status.message());
  CHECK_FALSE(device->lost());
  CHECK(device->copy_in(memory.data(), bytes.data(), 512).ok());
}

TEST_CASE("no memory at any point of an upload or a call: an error, nothing kept, and the next call works (emulated)") {
  Random random(1);
  const MoeLayer layer = random_layer(random);
  const std::vector<float> hidden = random.row(9 * layer.config.hidden);
  std::vector<float> out(hidden.size());
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = 9;
  args.out = out.data();
  const std::shared_ptr<Device> device = emulated_device(2);
  ThreadPool pool(2);
  int failures = 0;
  for (bool done = false; !done; ++failures) {
    REQUIRE(failures < 1000);
    device->trim();
    emulate("out-of-memory", failures);
    std::unique_ptr<DeviceMoeLayer> uploaded;
    Status status = DeviceMoeLayer::create(device, layer, pool, nullptr, &uploaded);
    if (status.ok()) status = uploaded->forward(args);
    done = status.ok();
    if (!done) CHECK(status.code() == Code::OutOfMemory);
    uploaded.reset();
    CHECK(device->bytes_in_use() == 0);
  }
  emulate("none");
  CHECK(failures > 10);  // router, matrices, tables, staging and the call's own
  CHECK_FALSE(device->lost());
}

TEST_CASE("a lost device: every object says so, the CPU works on, memory goes (emulated)") {
  Random random(2);
  const MoeLayer layer = random_layer(random);
  const std::vector<float> hidden = random.row(9 * layer.config.hidden);
  std::vector<float> out(hidden.size());
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = 9;
  args.out = out.data();
  ThreadPool pool(2);
  for (const int index : {4, 5}) {
    std::shared_ptr<Device> device = emulated_device(index);
    std::unique_ptr<DeviceMoeLayer> one, two;
    REQUIRE(DeviceMoeLayer::create(device, layer, pool, nullptr, &one).ok());
    REQUIRE(DeviceMoeLayer::create(device, layer, pool, nullptr, &two).ok());
    REQUIRE(one->forward(args).ok());
    emulate(index == 4 ? "launch" : "synchronize", index == 4 ? 2 : 0);
    const Status status = one->forward(args);
    CHECK(status.code() == Code::DeviceLost);
    CHECK_MESSAGE(says(status, "started again"), status.message());
    CHECK(device->lost());
    CHECK(one->forward(args).code() == Code::DeviceLost);
    CHECK(two->forward(args).code() == Code::DeviceLost);
    std::unique_ptr<DeviceMoeLayer> three;
    CHECK(DeviceMoeLayer::create(device, layer, pool, nullptr, &three).code() == Code::DeviceLost);
    std::shared_ptr<Device> again;
    CHECK(Device::open(index, &again).code() == Code::DeviceLost);
    CpuBackend cpu;
    CHECK(cpu.forward(layer, args).ok());
    CHECK(emulated_device(0)->lost() == false);
    one.reset();
    two.reset();
    CHECK(device->bytes_in_use() == 0);
    CHECK(device->bytes_cached() == 0);
    device.reset();
    CHECK(Device::open(index, &again).code() == Code::DeviceLost);  // for good, in this process
    emulate("none");
  }
}

TEST_CASE("a cancelled upload keeps nothing (emulated)") {
  Random random(3);
  const MoeLayer layer = random_layer(random);
  const std::shared_ptr<Device> device = emulated_device(2);
  ThreadPool pool(1);
  CancelFlag flag;
  flag.set = true;
  std::unique_ptr<DeviceMoeLayer> uploaded;
  CHECK(DeviceMoeLayer::create(device, layer, pool, &flag, &uploaded).code() == Code::Cancelled);
  CHECK(device->bytes_in_use() == 0);
}

TEST_CASE("bytes of a layer are what the device holds for it (emulated)") {
  Random random(4);
  const MoeLayer layer = random_layer(random);
  const std::shared_ptr<Device> device = emulated_device(2);
  ThreadPool pool(1);
  std::unique_ptr<DeviceMoeLayer> uploaded;
  REQUIRE(DeviceMoeLayer::create(device, layer, pool, nullptr, &uploaded).ok());
  CHECK(uploaded->bytes() == device->bytes_in_use());
}

TEST_CASE("a layer in slabs: the bits of one outside them, and all memory back (emulated)") {
  Random random(5);
  const MoeLayer layer = random_layer(random, true);
  const std::vector<float> hidden = random.row(70 * layer.config.hidden);
  ThreadPool threads(2);
  const auto forward = [&](DeviceMoeLayer& on) {
    std::vector<float> out(hidden.size());
    MoeLayer::Forward args;
    args.hidden = hidden.data();
    args.tokens = 70;
    args.out = out.data();
    REQUIRE(on.forward(args).ok());
    return out;
  };
  std::unique_ptr<DeviceMoeLayer> apart, one, two;
  REQUIRE(DeviceMoeLayer::create(emulated_device(), layer, threads, nullptr, &apart).ok());
  const std::vector<float> expected = forward(*apart);
  carve_emulated_devices(true);
  const std::shared_ptr<Device> device = emulated_device(3);
  carve_emulated_devices(false);
  REQUIRE(DeviceMoeLayer::create(device, layer, threads, nullptr, &one).ok());
  REQUIRE(DeviceMoeLayer::create(device, layer, threads, nullptr, &two).ok());
  CHECK(device->bytes_in_use() == one->bytes() + two->bytes());
  CHECK(same_bits(forward(*one), expected));
  one.reset();
  CHECK(same_bits(forward(*two), expected));
  two.reset();
  device->trim();
  CHECK(device->bytes_in_use() == 0);
  CHECK(device->bytes_cached() == 0);
}
