#include "device/device.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <vector>

#include "device/pool.h"

namespace smoe {
namespace {

// Pinned memory that copies go through: enough that a copy of the next part overlaps the transfer of the last, little
// enough to be had on any machine.
constexpr size_t kStagingBytes = size_t{16} << 20, kStagingPart = size_t{4} << 20;
constexpr size_t kStagingAlign = 256;

std::string name_of(int index, const cu::CudaDeviceInfo& info) {
  return "CUDA device " + std::to_string(index) + (info.name[0] != 0 ? " (" + std::string(info.name) + ")" : "");
}

std::string mib(size_t bytes) { return std::to_string((bytes + (1 << 19)) >> 20) + " MiB"; }

constexpr const char* kUseCpu = "use device \"cpu\"; `npx smoe doctor` says what was found";

// What to do about a device that cannot be opened.
std::string remedy(cu::CudaError error, const cu::CudaVersions& versions) {
  switch (error) {
    case cu::CudaError::NoDriver:
      return "install an NVIDIA driver for CUDA " + std::to_string(versions.runtime / 1000) + " or later, or " +
             kUseCpu;
    case cu::CudaError::NoDevice:
      if (versions.devices == 0) return std::string("make a GPU visible to this process, or ") + kUseCpu;
      return "devices 0 to " + std::to_string(versions.devices - 1) + " exist; choose one of them, or " + kUseCpu;
    case cu::CudaError::Unsupported:
      return std::string("a GPU of compute capability 8.0 or later is needed; ") + kUseCpu;
    default:
      return kUseCpu;
  }
}

Code code_of(cu::CudaError error) {
  switch (error) {
    case cu::CudaError::None:
      return Code::Ok;
    case cu::CudaError::NoDriver:
    case cu::CudaError::NoDevice:
    case cu::CudaError::Unsupported:
      return Code::DeviceUnavailable;
    case cu::CudaError::OutOfMemory:
      return Code::OutOfMemory;
    case cu::CudaError::DeviceLost:
      return Code::DeviceLost;
    case cu::CudaError::Launch:
      break;
  }
  return Code::Internal;
}

// Bytes that will lie in pinned memory once the stream has been synchronized.
struct Arriving {
  void* to;
  const void* from;
  size_t bytes;
};

// Devices of this process by index; why they were lost outlives them. Never destroyed: buffers in static objects may.
struct Registry {
  std::mutex lock;
  std::map<int, std::weak_ptr<Device>> open;
  std::map<int, std::string> lost;
};

Registry& registry() {
  static Registry* const one = new Registry;
  return *one;
}

std::atomic<bool>& carve_emulated() {
  static std::atomic<bool> carve{false};
  return carve;
}

}  // namespace

void carve_emulated_devices(bool carve) { carve_emulated().store(carve); }

struct Device::State {
  int index = 0;
  const cu::CudaTable* table = nullptr;
  cu::CudaDeviceInfo info = {};
  void* stream = nullptr;
  std::mutex call;
  std::atomic<bool> lost{false};

  std::unique_ptr<DevicePool> pool;

  // Under `call`.
  unsigned char* staging = nullptr;
  size_t staged = 0;  // bytes of it that copies under way may touch
  std::vector<Arriving> arriving;

  const cu::CudaRuntime& runtime() const { return table->runtime; }
  std::string name() const { return name_of(index, info); }
  // The emulation sees an access past its allocation, which in a slab it would take for one of a neighbour.
  void make_pool() {
    const bool carve = std::strcmp(runtime().kind, "emulation") != 0 || carve_emulated().load();
    const auto allocate = [this](size_t bytes, void** out) { return runtime().allocate(index, bytes, out); };
    const auto release = [this](void* memory) { runtime().release(index, memory); };
    pool = std::make_unique<DevicePool>(DevicePool::Source{allocate, release}, carve);
  }
};

Device::Device() : state_(new State) {}

Status Device::open(int index, std::shared_ptr<Device>* out) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> guard(all.lock);
  if (const auto lost = all.lost.find(index); lost != all.lost.end()) return Status(Code::DeviceLost, lost->second);
  if (auto open = all.open[index].lock()) {
    *out = std::move(open);
    return Status();
  }
  const std::string cannot = "CUDA device " + std::to_string(index) + " cannot be used: ";
  const CudaLibrary& library = cuda_library();
  if (library.table == nullptr) return Status(Code::DeviceUnavailable, cannot + library.why + "; " + kUseCpu);

  std::shared_ptr<Device> device(new Device);
  State& state = *device->state_;
  state.index = index;
  state.table = library.table;
  state.make_pool();
  const cu::CudaRuntime& runtime = state.runtime();
  cu::CudaError failed = runtime.device_info(index, &state.info);
  if (failed == cu::CudaError::None) failed = runtime.create_stream(index, &state.stream);
  if (failed != cu::CudaError::None) {
    const std::string why = runtime.last_error();
    cu::CudaVersions versions = {};
    (void)runtime.versions(&versions);
    const std::string text = cannot + why + "; " + remedy(failed, versions);
    if (failed == cu::CudaError::DeviceLost) all.lost[index] = text;
    return Status(code_of(failed), text);
  }
  all.open[index] = device;
  *out = std::move(device);
  return Status();
}

Device::~Device() {
  State& state = *state_;
  if (state.stream == nullptr) return;
  const cu::CudaRuntime& runtime = state.runtime();
  (void)runtime.synchronize(state.stream);
  trim();
  if (state.staging != nullptr) runtime.release_host(state.staging);
  runtime.destroy_stream(state.index, state.stream);
}

int Device::index() const { return state_->index; }
const cu::CudaDeviceInfo& Device::info() const { return state_->info; }
const cu::CudaTable& Device::table() const { return *state_->table; }
void* Device::stream() const { return state_->stream; }
std::unique_lock<std::mutex> Device::lock() { return std::unique_lock<std::mutex>(state_->call); }
bool Device::lost() const { return state_->lost.load(std::memory_order_acquire); }

Status Device::check(cu::CudaError error, const char* what) {
  State& state = *state_;
  if (!lost()) {
    if (error == cu::CudaError::None) return Status();
    const std::string text = std::string(what) + ": " + state.name() + ": " + state.runtime().last_error();
    if (error != cu::CudaError::DeviceLost) return Status(code_of(error), text);
    Registry& all = registry();
    const std::lock_guard<std::mutex> guard(all.lock);
    all.lost.emplace(state.index, text + "; it stays unusable until this process is started again");
    state.lost.store(true, std::memory_order_release);
    trim();
  }
  Registry& all = registry();
  const std::lock_guard<std::mutex> guard(all.lock);
  return Status(Code::DeviceLost, all.lost[state.index]);
}

Status Device::allocate(size_t bytes, DeviceBuffer* out) {
  out->release();
  SMOE_RETURN_IF_ERROR(check(cu::CudaError::None, "allocation"));
  State& state = *state_;
  size_t size = bytes;
  void* memory = nullptr;
  const cu::CudaError error = state.pool->allocate(&size, &memory);
  if (error == cu::CudaError::OutOfMemory) {
    return Status(Code::OutOfMemory, state.name() + " has no room for " + mib(size) +
                                         " more: " + mib(state.pool->in_use()) + " of " + mib(state.info.memory) +
                                         " are in use by this process's models; dispose of what is no longer needed, "
                                         "or take a smaller format or context");
  }
  SMOE_RETURN_IF_ERROR(check(error, "allocation"));
  out->device_ = shared_from_this();
  out->data_ = memory;
  out->bytes_ = size;
  return Status();
}

void Device::give_back(void* memory, size_t bytes) { state_->pool->give_back(memory, bytes, !lost()); }
size_t Device::bytes_in_use() const { return state_->pool->in_use(); }
size_t Device::bytes_cached() const { return state_->pool->cached(); }
void Device::trim() { state_->pool->trim(); }

// Room for the next part of a copy, at most kStagingPart; waits when there is none.
Status Device::take_staging(size_t bytes, unsigned char** at, size_t* part) {
  State& state = *state_;
  *part = std::min(bytes, kStagingPart);
  if (kStagingBytes - state.staged < *part) SMOE_RETURN_IF_ERROR(synchronize());
  if (state.staging == nullptr) {
    void* memory = nullptr;
    SMOE_RETURN_IF_ERROR(check(state.runtime().allocate_host(kStagingBytes, &memory), "pinned memory for copies"));
    state.staging = static_cast<unsigned char*>(memory);
  }
  *at = state.staging + state.staged;
  // Taken also when the copy fails: it may be under way.
  state.staged = std::min(kStagingBytes, (state.staged + *part + kStagingAlign - 1) / kStagingAlign * kStagingAlign);
  return Status();
}

Status Device::copy_in(void* to_device, const void* from_host, size_t bytes) {
  State& state = *state_;
  unsigned char* at = nullptr;
  size_t part = 0;
  for (size_t done = 0; done < bytes; done += part) {
    SMOE_RETURN_IF_ERROR(take_staging(bytes - done, &at, &part));
    std::memcpy(at, static_cast<const unsigned char*>(from_host) + done, part);
    SMOE_RETURN_IF_ERROR(
        check(state.runtime().copy_in(state.stream, static_cast<unsigned char*>(to_device) + done, at, part),
              "copy to the device"));
  }
  return check(cu::CudaError::None, "copy to the device");
}

Status Device::copy_out_later(void* to_host, const void* from_device, size_t bytes) {
  State& state = *state_;
  unsigned char* at = nullptr;
  size_t part = 0;
  for (size_t done = 0; done < bytes; done += part) {
    SMOE_RETURN_IF_ERROR(take_staging(bytes - done, &at, &part));
    SMOE_RETURN_IF_ERROR(
        check(state.runtime().copy_out(state.stream, at, static_cast<const unsigned char*>(from_device) + done, part),
              "copy from the device"));
    state.arriving.push_back({static_cast<unsigned char*>(to_host) + done, at, part});
  }
  return check(cu::CudaError::None, "copy from the device");
}

Status Device::copy_out(void* to_host, const void* from_device, size_t bytes) {
  const Status status = copy_out_later(to_host, from_device, bytes);
  const Status waited = synchronize();
  return status.ok() ? waited : status;
}

Status Device::fill(void* memory, int byte, size_t bytes) {
  return check(bytes == 0 ? cu::CudaError::None : state_->runtime().fill(state_->stream, memory, byte, bytes), "fill");
}

Status Device::synchronize() {
  State& state = *state_;
  const Status status = check(state.runtime().synchronize(state.stream), "work on the device");
  if (status.ok()) {
    for (const Arriving& copy : state.arriving) std::memcpy(copy.to, copy.from, copy.bytes);
  }
  state.arriving.clear();
  state.staged = 0;
  return status;
}

void DeviceBuffer::release() {
  if (device_ == nullptr) return;
  device_->give_back(std::exchange(data_, nullptr), std::exchange(bytes_, 0));
  device_.reset();
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    release();
    device_ = std::move(other.device_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

}  // namespace smoe
