#include "cuda/emu/world.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cuda/emu/inject.h"

namespace smoe::cu::emu {
namespace {

bool choose(World& w, const std::string& kind, long long value) {
  if (kind == "schedule" && (value == 0 || value == 1)) {
    w.options.schedule = value == 0 ? Schedule::LazyRoundRobin : Schedule::EagerGreedy;
  } else if (kind == "order" && value >= 0 && value <= 2) {
    w.options.order = static_cast<BlockOrder>(value);
  } else if (kind == "seed") {
    w.options.seed = static_cast<uint64_t>(value);
  } else {
    return false;
  }
  return true;
}

bool inject(World& w, const std::string& kind, long long after) {
  if (choose(w, kind, after)) return true;
  if (kind == "no-driver")
    w.no_driver = true;
  else if (kind == "no-device")
    w.no_device = true;
  else if (kind == "old-device")
    w.old_device = true;
  else if (kind == "out-of-memory")
    w.allocations_left = after;
  else if (kind == "memory")
    w.memory = static_cast<size_t>(after);
  else if (kind == "launch")
    w.launches_left = after;
  else if (kind == "synchronize")
    w.synchronizes_left = after;
  else if (kind == "none") {
    w.no_driver = w.no_device = w.old_device = false;
    w.memory = kMemory;
    w.allocations_left = w.launches_left = w.synchronizes_left = kNever;
    for (auto& gpu : w.gpus) {
      gpu->lost.clear();
      gpu->device.clear();
    }
  } else {
    return false;
  }
  return true;
}

}  // namespace

// Never destroyed: streams in static objects may outlive it.
World& world() {
  static World* const one = [] {
    auto* const made = new World;
    const char* const count = std::getenv("SMOE_CUDA_EMU_DEVICES");
    const int gpus = count == nullptr ? 1 : std::atoi(count);
    for (int i = 0; i < gpus; ++i) made->gpus.push_back(std::make_unique<EmulatedGpu>());
    if (const char* const fault = std::getenv("SMOE_CUDA_EMU_FAULT"); fault != nullptr) {
      const std::string text = fault;
      const size_t colon = text.find(':');
      const long long after = colon == std::string::npos ? 0 : std::atoll(text.c_str() + colon + 1);
      inject(*made, text.substr(0, colon), after);
    }
    const auto choose_named = [&](const char* variable, const char* kind, std::initializer_list<const char*> names) {
      const char* const text = std::getenv(variable);
      long long value = 0;
      for (const char* name : names) {
        if (text != nullptr && std::strcmp(text, name) == 0) choose(*made, kind, value);
        ++value;
      }
    };
    choose_named("SMOE_CUDA_EMU_SCHEDULE", "schedule", {"lazy", "eager"});
    choose_named("SMOE_CUDA_EMU_ORDER", "order", {"ascending", "descending", "random"});
    return made;
  }();
  return *one;
}

}  // namespace smoe::cu::emu

int smoe_cuda_emu_inject(const char* kind, long long after) {
  auto& w = smoe::cu::emu::world();
  const std::lock_guard<std::mutex> guard(w.lock);
  return smoe::cu::emu::inject(w, kind, after) ? 0 : 1;
}
