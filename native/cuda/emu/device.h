// The emulated device: memory, options, and what launches reported. cu::Stream in emulation points to one.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/emu/engine.h"

namespace smoe::cu::emu {

// A launch as it was given, to be repeated: graphs are recordings.
struct RecordedLaunch {
  LaunchShape shape;
  void (*body)(const void*, const void*);
  std::vector<unsigned char> kernel, args;  // operator new aligns them
};

// A stream. Streams that share a GPU share its memory, its engine (a launch is a number that the race checks compare)
// and its fault. Not for several threads at once.
class Device {
  struct Shared {
    GlobalMemory memory;
    Engine engine;
    Report report;
  };
  std::shared_ptr<Shared> shared_;

 public:
  Options options;
  GlobalMemory& memory;

  Device() : shared_(std::make_shared<Shared>()), memory(shared_->memory) {}
  // Another stream of the same GPU. Not a copy constructor, which would be called by accident.
  explicit Device(Device* beside) : shared_(beside->shared_), options(beside->options), memory(shared_->memory) {}
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // The first fault since the last clear; later launches are refused until then, as on a GPU after a sticky error.
  const Report& report() const { return shared_->report; }
  void clear() { shared_->report = Report(); }
  Engine& engine() { return shared_->engine; }

  // While set, launches are handed over instead of run, and succeed.
  std::function<void(RecordedLaunch)> recorder;

  // kernel and args: plain data, of which a recording keeps copies.
  int launch(const LaunchShape& shape, void (*body)(const void*, const void*), const void* kernel, size_t kernel_bytes,
             const void* args, size_t args_bytes) {
    if (recorder) {
      const auto bytes = [](const void* from, size_t count) {
        const unsigned char* const first = static_cast<const unsigned char*>(from);
        return std::vector<unsigned char>(first, first + count);
      };
      recorder({shape, body, bytes(kernel, kernel_bytes), bytes(args, args_bytes)});
      return 0;
    }
    Shared& gpu = *shared_;
    if (gpu.report.ok()) gpu.report = gpu.engine.run(shape, body, kernel, args, gpu.memory, options);
    return gpu.report.ok() ? 0 : 1;
  }
  int launch(const RecordedLaunch& again) {
    return launch(again.shape, again.body, again.kernel.data(), again.kernel.size(), again.args.data(),
                  again.args.size());
  }
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
