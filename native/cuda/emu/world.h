// What the emulated machine is: its GPUs, how kernels run on them, and the faults that tests have asked for.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/emu/device.h"

namespace smoe::cu::emu {

constexpr long long kNever = -1;
constexpr size_t kMemory = size_t{8} << 30;
struct EmulatedGpu {
  Device device;
  std::unordered_map<void*, GlobalBuffer*> buffers;
  size_t in_use = 0;
  std::string lost;  // why; empty: works
};

struct World {
  std::mutex lock;  // of all that follows and of every GPU: calls are rare beside what they emulate
  std::vector<std::unique_ptr<EmulatedGpu>> gpus;
  bool no_driver = false, no_device = false, old_device = false;
  size_t memory = kMemory;
  Options options;  // of every launch
  long long allocations_left = kNever, launches_left = kNever, synchronizes_left = kNever;
};

// Made at first use, as the environment says.
World& world();

// Counts a call down; true when it is the one that fails.
inline bool strikes(long long* left) { return *left != kNever && (*left)-- == 0; }

}  // namespace smoe::cu::emu
