// Stackful fibers: one per emulated CUDA thread. Switching saves the callee-saved registers only (System V x86-64 and
// AAPCS64); other processors, or SMOE_FIBER_UCONTEXT, use ucontext, which costs a system call per switch.
#pragma once

#include <cstddef>

#if defined(SMOE_FIBER_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__)) || defined(_WIN32)
#define SMOE_FIBER_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace smoe::cu::emu {

class Fiber {
 public:
  // Prepares [stack, stack + bytes) to call entry(arg) on the first switch. entry must not return. May be called again
  // to abandon what ran there.
  void prepare(void* stack, size_t bytes, void (*entry)(void*), void* arg);
  // Leaves the running fiber, which must be `from`, and continues `to`.
  static void switch_to(Fiber& from, Fiber& to);
  // First statement of every entry function (sanitizers need to hear of the arrival).
  static void arrived(Fiber& self);

 private:
  void* stack_ = nullptr;  // null for the thread's own stack; its bounds are learned at the first switch
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
#ifdef SMOE_FIBER_USES_UCONTEXT
  ucontext_t context_;
#else
  void* sp_ = nullptr;
#endif
};

// One mapping for all stacks of a block, an inaccessible page below each: an overflow faults instead of corrupting.
class StackPool {
 public:
  StackPool() = default;
  ~StackPool() { release(); }
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  bool reserve(int count);  // keeps what it has when that is enough
  void* stack(int index) const;
  size_t stack_bytes() const;
  int count() const { return count_; }

 private:
  void release();
  void* base_ = nullptr;
  int count_ = 0;
};

}  // namespace smoe::cu::emu
