// The emulated device: memory, options, and what launches reported. cu::Stream in emulation points to one.
#pragma once

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

}  // namespace smoe::cu::emu
