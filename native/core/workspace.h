// Scratch memory of one call: sized once, then handed out by bumping a pointer, so that no stage can
// run out half-way through.
#pragma once

#include "core/buffer.h"

namespace smoe {

class Workspace {
 public:
  // Makes room for at least `bytes`; earlier pointers become invalid. Grows only.
  Status reserve(size_t bytes);
  // Forgets what was handed out.
  void reset() { used_ = 0; }

  // 64-byte aligned, undefined contents. The caller has reserved enough: see bytes_for().
  template <class T>
  T* take(size_t count) {
    T* pointer = reinterpret_cast<T*>(buffer_.as<unsigned char>() + used_);
    used_ += bytes_for<T>(count);
    return pointer;
  }
  template <class T>
  static size_t bytes_for(size_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }
  size_t capacity() const { return buffer_.bytes(); }
  size_t used() const { return used_; }
  void release() {
    buffer_.release();
    used_ = 0;
  }

 private:
  Buffer buffer_;
  size_t used_ = 0;
};

}  // namespace smoe
