// The device that kernel tests run on: memory, a stream, and the launches of cuda_launches.h. In emulation a test runs
// under every schedule and block order of all_runs(). With SMOE_TEST_ON_GPU (scripts/gpu-check) the same files are
// compiled by nvcc and the device is a GPU, reached through cuda/runtime.h (gpu_device.h).
#pragma once

#ifdef SMOE_TEST_ON_GPU
#include "gpu_device.h"
#else

#include "emu_test.h"
#include "kernels/cuda_launches.h"

namespace smoe::cu::test {

class Gpu {
 public:
  explicit Gpu(const Run& run = {emu::Schedule::LazyRoundRobin, emu::BlockOrder::Ascending}, uint64_t seed = 1) {
    device_.options = options_of(run, seed);
  }
  Stream stream() { return &device_; }
  static bool has_wgmma() { return true; }
  // Of the emulation alone; a GPU has what it has and counts nothing. What is found in the counts stands under
  // #ifndef SMOE_TEST_ON_GPU.
  void set_wgmma(bool has) { device_.options.wgmma = has; }
  void set_shared_limit(size_t bytes) { device_.options.shared_limit = bytes; }
  void count_traffic(bool on) { device_.options.traffic = on; }
  void read_traffic(emu::Traffic* out) { *out = device_.engine().traffic(); }

  // Poisoned: reading what no kernel has written is a fault in emulation, NaN bit patterns on a GPU.
  template <class T>
  emu::Buffer<T> array(size_t count, const char* name) {
    return emu::Buffer<T>(device_, count, name);
  }
  template <class T>
  emu::Buffer<T> array(const std::vector<T>& values, const char* name) {
    return emu::Buffer<T>(device_, values, name);
  }
  // Weights and tables, which no kernel writes.
  template <class T>
  emu::Buffer<T> constant(const std::vector<T>& values, const char* name) {
    return emu::Buffer<T>::constant(device_, values, name);
  }
  // What went wrong since the start; empty when nothing did. For CHECK(gpu.fault() == "").
  std::string fault() { return device_.report().ok() ? std::string() : device_.report().text(); }

 private:
  emu::Device device_;
};

}  // namespace smoe::cu::test

#endif
