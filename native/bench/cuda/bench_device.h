// What the benchmark and the full-size checks hold of a device: the launch table, a stream, memory, and the first
// error.
#pragma once

#include <string>
#include <vector>

#include "kernels/cuda_table.h"

extern "C" const smoe::cu::CudaTable* smoe_cuda_table();

namespace smoe::bench {

class BenchDevice {
 public:
  BenchDevice() : table_(*smoe_cuda_table()) {
    if (ok(table_.runtime.device_info(0, &info_))) ok(table_.runtime.create_stream(0, &stream_));
  }
  ~BenchDevice() {
    if (stream_ != nullptr) table_.runtime.destroy_stream(0, stream_);
  }
  BenchDevice(const BenchDevice&) = delete;
  BenchDevice& operator=(const BenchDevice&) = delete;

  const cu::CudaTable& table() const { return table_; }
  const cu::CudaRuntime& runtime() const { return table_.runtime; }
  const cu::CudaDeviceInfo& info() const { return info_; }
  void* stream() const { return stream_; }
  bool has_wgmma() const { return info_.major == 9; }
  size_t memory_free() {
    cu::CudaDeviceInfo now = {};
    return ok(table_.runtime.device_info(0, &now)) ? now.memory_free : 0;
  }

  // Notes the first error. Everything goes through it, so that a case ends with a reason and not with a wrong figure.
  bool ok(cu::CudaError error) {
    if (error != cu::CudaError::None && error_.empty()) {
      code_ = error;
      error_ = table_.runtime.last_error();
    }
    return error_.empty();
  }
  const std::string& error() const { return error_; }
  bool lost() const { return code_ == cu::CudaError::DeviceLost; }
  // Before the next case: an error that left the device as it was is forgotten.
  void forget_error() {
    if (lost()) return;
    error_.clear();
    code_ = cu::CudaError::None;
  }
  bool synchronize() { return ok(table_.runtime.synchronize(stream_)); }

 private:
  const cu::CudaTable& table_;
  cu::CudaDeviceInfo info_ = {};
  void* stream_ = nullptr;
  cu::CudaError code_ = cu::CudaError::None;
  std::string error_;
};

// Memory of the device; null after a refused allocation, which the device has noted.
template <class T>
class DeviceBlock {
 public:
  DeviceBlock() = default;
  DeviceBlock(BenchDevice& device, int64_t count) : device_(&device), count_(count) {
    void* memory = nullptr;
    device.ok(device.runtime().allocate(0, static_cast<size_t>(count) * sizeof(T), &memory));
    data_ = static_cast<T*>(memory);
  }
  DeviceBlock(BenchDevice& device, const std::vector<T>& values)
      : DeviceBlock(device, static_cast<int64_t>(values.size())) {
    if (data_ == nullptr || values.empty()) return;
    device.ok(device.runtime().copy_in(device.stream(), data_, values.data(), values.size() * sizeof(T)));
    device.synchronize();
  }
  DeviceBlock(DeviceBlock&& other) noexcept { *this = std::move(other); }
  DeviceBlock& operator=(DeviceBlock&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceBlock() {
    if (data_ != nullptr) device_->runtime().release(0, data_);
  }

  T* data() const { return data_; }
  int64_t size() const { return count_; }
  std::vector<T> download(int64_t from, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    if (data_ == nullptr || count == 0) return values;
    device_->ok(device_->runtime().copy_out(device_->stream(), values.data(), data_ + from,
                                            static_cast<size_t>(count) * sizeof(T)));
    device_->synchronize();
    return values;
  }
  std::vector<T> download() const { return download(0, count_); }
  void fill(int byte) {
    if (data_ == nullptr) return;
    device_->ok(device_->runtime().fill(device_->stream(), data_, byte, static_cast<size_t>(count_) * sizeof(T)));
  }

 private:
  BenchDevice* device_ = nullptr;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace smoe::bench
