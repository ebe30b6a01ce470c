// gpu.h for a device behind cuda/runtime.h: a GPU, or the emulation of the runtime (which is how CI executes this
// file). What the emulator would have seen is looked for with guards: memory is filled with a NaN pattern, every array
// has a margin on both sides that must stay as it was, and constants are compared with what they held.
#pragma once

#include <algorithm>
#include <memory>

#include "cuda/launch_stream.h"
#include "kernels/cuda_launches.h"
#include "runs.h"

namespace smoe::cu::test {

// As bf16, f32 and f64 a NaN, and none that arithmetic or a conversion makes; as an integer far from every size.
constexpr uint16_t kPoison = 0xFFF1;

class DeviceMemory {
 public:
  DeviceMemory() : runtime_(cuda_runtime()) {
    note(runtime_.create_stream(0, &stream_));
    // The memory checkers find what leaves an array only where nothing of ours lies beside it.
    margin_ = std::getenv("SMOE_TEST_NO_MARGIN") == nullptr ? 256 : 0;
  }
  ~DeviceMemory() { runtime_.destroy_stream(0, stream_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  struct Region {
    std::string name;
    unsigned char* data = nullptr;  // of the array; the allocation begins a margin earlier
    size_t bytes = 0;
    std::vector<unsigned char> constant;  // what has to stay
  };

  Region* allocate(size_t bytes, const char* name) {
    auto region = std::make_unique<Region>();
    region->name = name;
    region->bytes = bytes;
    void* memory = nullptr;
    const size_t all = (bytes + 15) / 16 * 16 + 2 * margin_;
    note(runtime_.allocate(0, all, &memory));
    if (memory != nullptr) {
      std::vector<uint16_t> poison(all / 2, kPoison);
      copy_in(memory, poison.data(), all);
      region->data = static_cast<unsigned char*>(memory) + margin_;
    }
    regions_.push_back(std::move(region));
    return regions_.back().get();
  }
  void release(Region* region) {
    check(*region);
    if (region->data != nullptr) runtime_.release(0, region->data - margin_);
    const auto mine = [region](const std::unique_ptr<Region>& other) { return other.get() == region; };
    regions_.erase(std::find_if(regions_.begin(), regions_.end(), mine));
  }
  void copy_in(void* to, const void* from, size_t bytes) {
    note(runtime_.copy_in(stream_, to, from, bytes));
    note(runtime_.synchronize(stream_));
  }
  void copy_out(void* to, const void* from, size_t bytes) {
    note(runtime_.copy_out(stream_, to, from, bytes));
    note(runtime_.synchronize(stream_));
  }
  Stream stream() {
    Stream on = nullptr;
    if (stream_ == nullptr) return on;
    const CudaError refused = enter_stream(stream_, &on);
    note(refused);
    // Entering is a promise to leave, which the emulation keeps a lock for; the device stays the current one.
    if (refused == CudaError::None) note(left_stream(stream_, 0));
    return on;
  }
  std::string fault() {
    if (stream_ != nullptr) note(runtime_.synchronize(stream_));
    for (const auto& region : regions_) check(*region);
    return fault_;
  }

 private:
  void note(CudaError error) {
    if (error != CudaError::None && fault_.empty()) fault_ = runtime_.last_error();
  }
  // What a kernel wrote where nothing of its own lies.
  void check(const Region& region) {
    if (!fault_.empty() || region.data == nullptr) return;
    const size_t inside = (region.bytes + 15) / 16 * 16;
    std::vector<unsigned char> margins(2 * margin_);
    if (margin_ > 0) {
      copy_out(margins.data(), region.data - margin_, margin_);
      copy_out(margins.data() + margin_, region.data + inside, margin_);
    }
    for (size_t i = 0; i < margins.size(); i += 2) {
      uint16_t found;
      std::memcpy(&found, &margins[i], 2);
      if (found == kPoison || !fault_.empty()) continue;
      const int64_t at = i < margin_ ? static_cast<int64_t>(i) - static_cast<int64_t>(margin_)
                                     : static_cast<int64_t>(inside + i - margin_);
      fault_ = "written outside '" + region.name + "' (" + std::to_string(region.bytes) + " bytes): at byte " +
               std::to_string(at);
    }
    if (region.constant.empty() || !fault_.empty()) return;
    std::vector<unsigned char> now(region.constant.size());
    copy_out(now.data(), region.data, now.size());
    if (fault_.empty() && now != region.constant) fault_ = "written to the constant '" + region.name + "'";
  }

  const CudaRuntime& runtime_;
  void* stream_ = nullptr;
  size_t margin_ = 0;
  std::string fault_;
  std::vector<std::unique_ptr<Region>> regions_;
};

// Device memory of a test: filled from the host, read back by the host. data() is an address of the device.
template <class T>
class DeviceArray {
 public:
  DeviceArray(DeviceMemory& memory, size_t count, const char* name)
      : memory_(&memory), region_(memory.allocate(count * sizeof(T), name)), count_(count) {}
  DeviceArray(DeviceArray&& other) noexcept : memory_(other.memory_), region_(other.region_), count_(other.count_) {
    other.region_ = nullptr;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    if (region_ != nullptr) memory_->release(region_);
  }

  T* data() { return reinterpret_cast<T*>(region_->data); }
  size_t size() const { return count_; }
  void upload(const std::vector<T>& values) {
    if (!values.empty() && region_->data != nullptr) {
      memory_->copy_in(region_->data, values.data(), values.size() * sizeof(T));
    }
  }
  void keep_constant(const std::vector<T>& values) {
    region_->constant.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(region_->constant.data(), values.data(), region_->constant.size());
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    if (count_ > 0 && region_->data != nullptr) memory_->copy_out(values.data(), region_->data, count_ * sizeof(T));
    return values;
  }
  // Bytes of elements that hold nothing but the pattern: half an f32 has its bits now and then. So do two codes of a
  // byte each (-15, -1), one pair in 65536, but hardly four; kernels store codes a word at a time or more.
  size_t unwritten_bytes() const {
    constexpr size_t kStep = sizeof(T) == 1 ? 4 : sizeof(T);
    const std::vector<T> values = download();
    const auto* const bytes = reinterpret_cast<const unsigned char*>(values.data());
    size_t unwritten = 0;
    for (size_t at = 0; at + kStep <= values.size() * sizeof(T); at += kStep) {
      size_t same = 0;
      for (size_t i = 0; i < kStep; i += sizeof kPoison)
        same += std::memcmp(bytes + at + i, &kPoison, sizeof kPoison) == 0;
      if (same * sizeof kPoison == kStep) unwritten += kStep;
    }
    return unwritten;
  }

 private:
  DeviceMemory* memory_;
  DeviceMemory::Region* region_;
  size_t count_;
};

class Gpu {
 public:
  explicit Gpu(const Run& = {}, uint64_t = 1) {}
  Stream stream() { return memory_.stream(); }
  // wgmma exists on sm_90a alone.
  static bool has_wgmma() {
    CudaDeviceInfo info;
    return cuda_runtime().device_info(0, &info) == CudaError::None && info.major == 9;
  }
  void set_wgmma(bool) {}
  void set_shared_limit(size_t) {}
  void count_traffic(bool) {}
  void read_traffic(emu::Traffic*) {}
  template <class T>
  DeviceArray<T> array(size_t count, const char* name) {
    return DeviceArray<T>(memory_, count, name);
  }
  template <class T>
  DeviceArray<T> array(const std::vector<T>& values, const char* name) {
    DeviceArray<T> made(memory_, values.size(), name);
    made.upload(values);
    return made;
  }
  template <class T>
  DeviceArray<T> constant(const std::vector<T>& values, const char* name) {
    DeviceArray<T> made = array(values, name);
    made.keep_constant(values);
    return made;
  }
  std::string fault() { return memory_.fault(); }

 private:
  DeviceMemory memory_;
};

}  // namespace smoe::cu::test

namespace smoe::cu::emu {
template <class T>
using Buffer = test::DeviceArray<T>;
}  // namespace smoe::cu::emu
