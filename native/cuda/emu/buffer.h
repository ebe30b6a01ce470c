// Memory of an emulated device as its tests hold it.
#pragma once

#include <cstring>
#include <vector>

#include "cuda/emu/device.h"

namespace smoe::cu::emu {

// Filled from the host, read back by the host.
template <class T>
class Buffer {
 public:
  Buffer(Device& device, size_t count, const char* name) : Buffer(device, count, name, false) {}
  Buffer(Device& device, const std::vector<T>& values, const char* name) : Buffer(device, values.size(), name, false) {
    upload(values);
  }
  // Weights and tables: kernels may read them before pdl_wait and may not write them.
  static Buffer constant(Device& device, const std::vector<T>& values, const char* name) {
    Buffer buffer(device, values.size(), name, true);
    buffer.upload(values);
    return buffer;
  }
  Buffer(Buffer&& other) noexcept : device_(other.device_), buffer_(other.buffer_), count_(other.count_) {
    other.buffer_ = nullptr;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (buffer_ != nullptr) device_.memory.release(buffer_);
  }

  T* data() { return reinterpret_cast<T*>(buffer_->data); }
  size_t size() const { return count_; }
  void upload(const std::vector<T>& values) {
    if (values.empty()) return;
    std::memcpy(buffer_->data, values.data(), values.size() * sizeof(T));
    device_.memory.mark_written(buffer_, 0, values.size() * sizeof(T));
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    if (count_ > 0) std::memcpy(values.data(), buffer_->data, count_ * sizeof(T));
    return values;
  }
  size_t unwritten_bytes() const { return device_.memory.unwritten(buffer_); }

 private:
  Buffer(Device& device, size_t count, const char* name, bool constant)
      : device_(device), buffer_(device.memory.allocate(count * sizeof(T), constant, name)), count_(count) {}
  Device& device_;
  GlobalBuffer* buffer_;
  size_t count_;
};

}  // namespace smoe::cu::emu
