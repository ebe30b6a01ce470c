// Owned, 64-byte aligned memory, on huge pages where it is not small, never throwing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/status.h"

namespace smoe {

class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Contents are undefined. Earlier contents are lost. OutOfMemory leaves the buffer empty.
  Status allocate(size_t bytes);
  void release();

  void* data() { return data_; }
  const void* data() const { return data_; }
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Sizes as products, refused when they pass what a size_t (and half the address space) can hold.
bool checked_product(size_t a, size_t b, size_t* out);

}  // namespace smoe
