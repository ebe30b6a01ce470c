// Scratch memory of one call: sized once, then handed out by bumping a pointer, so that no stage can
// run out half-way through.
#pragma once

#include <memory>

#include "core/buffer.h"

namespace smoe {

class Workspace {
 public:
  // Makes room for at least `bytes` and forgets what was handed out; earlier pointers become invalid. Grows
  // only. OutOfMemory leaves the workspace empty but usable.
  Status reserve(size_t bytes);
  // Forgets what was handed out.
  void reset() { used_ = 0; }
  // Gives back everything taken since used() was `mark`: stages that follow each other share memory.
  void rewind(size_t mark) { used_ = mark; }

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

  // The workspace of a call inside this call: a MoE layer resets and reserves its own while the decoder around it
  // still holds rows in this one.
  Workspace& nested();

  size_t capacity() const { return buffer_.bytes(); }
  size_t used() const { return used_; }
  // Memory held, nested workspaces included.
  size_t bytes() const { return capacity() + (nested_ == nullptr ? 0 : nested_->bytes()); }
  void release();

 private:
  Buffer buffer_;
  size_t used_ = 0;
  std::unique_ptr<Workspace> nested_;
};

}  // namespace smoe
