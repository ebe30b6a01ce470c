#pragma once

#include <atomic>

namespace smoe {

// Set from the JS thread when an AbortSignal fires; polled by the op between stages.
struct CancelFlag {
  std::atomic<bool> set{false};
};

inline bool cancelled(const CancelFlag* flag) { return flag != nullptr && flag->set.load(std::memory_order_relaxed); }

}  // namespace smoe
