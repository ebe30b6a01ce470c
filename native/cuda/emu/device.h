// The emulated device: memory, options, and what launches reported. cu::Stream in emulation points to one.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "cuda/emu/engine.h"

namespace smoe::cu::emu {

class Device {
 public:
  Options options;
  GlobalMemory memory;

  // The first fault since the last clear; later launches are refused until then, as on a GPU after a sticky error.
  const Report& report() const { return report_; }
  void clear() { report_ = Report(); }
  Engine& engine() { return engine_; }

  int launch(const LaunchShape& shape, void (*body)(const void*, const void*), const void* kernel, const void* args) {
    if (report_.ok()) report_ = engine_.run(shape, body, kernel, args, memory, options);
    return report_.ok() ? 0 : 1;
  }

 private:
  Engine engine_;
  Report report_;
};

// Device memory of a test: filled from the host, read back by the host.
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
