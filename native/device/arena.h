// Cuts one allocation of a device into arrays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace smoe {

class DeviceArena {
 public:
  // Null: nothing is handed out, only bytes() is counted.
  explicit DeviceArena(void* memory) : at_(reinterpret_cast<uintptr_t>(memory)), counts_only_(memory == nullptr) {}

  // 256 bytes apart, as the runtime aligns allocations.
  template <class T>
  T* take(int64_t count) {
    T* const taken = counts_only_ ? nullptr : reinterpret_cast<T*>(at_ + bytes_);
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return taken;
  }
  size_t bytes() const { return bytes_; }

 private:
  uintptr_t at_;
  size_t bytes_ = 0;
  bool counts_only_;
};

}  // namespace smoe
