// Scratch memory of a device, handed out by bumping a pointer. With no memory behind it, it measures: the same code
// that takes what a stage needs says how much that is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/operands.h"

namespace smoe {

class DeviceArena {
 public:
  explicit DeviceArena(void* memory = nullptr) : memory_(static_cast<unsigned char*>(memory)) {}

  // Aligned for every copy that a kernel makes (16 bytes), and to whole sectors and lines (256).
  template <class T>
  T* take(int64_t count) {
    T* const at = memory_ != nullptr ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (static_cast<size_t>(std::max<int64_t>(count, 0)) * sizeof(T) + 255) / 256 * 256;
    return at;
  }
  cu::Planes take_planes(int64_t elements, int parts) { return {take<cu::bf16>(elements * parts), elements, parts}; }
  size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_ = 0;
};

}  // namespace smoe
