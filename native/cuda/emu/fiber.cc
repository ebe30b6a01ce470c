#include "cuda/emu/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define SMOE_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SMOE_FIBER_ASAN 1
#endif
#endif
#ifdef SMOE_FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace smoe::cu::emu {
namespace {

// Sanitizers enlarge frames several times over.
#ifdef SMOE_FIBER_ASAN
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Who switched last: the arriving side tells the sanitizer whose stack was left.
__thread Fiber* left_fiber = nullptr;

}  // namespace

#ifndef SMOE_FIBER_USES_UCONTEXT

#define SMOE_STRING2(x) #x
#define SMOE_STRING(x) SMOE_STRING2(x)
#define SMOE_SYMBOL(name) SMOE_STRING(__USER_LABEL_PREFIX__) #name

extern "C" void smoe_fiber_switch(void** save_sp, void* load_sp);
extern "C" void smoe_fiber_start();

#if defined(__APPLE__)
#define SMOE_TEXT_BEGIN ".text\n"
#define SMOE_TEXT_END ""
#else
// Top-level assembly must leave the current section as it found it.
#define SMOE_TEXT_BEGIN ".pushsection .text\n"
#define SMOE_TEXT_END ".popsection\n"
#endif

#if defined(__x86_64__)
// clang-format off
asm(SMOE_TEXT_BEGIN
    ".globl " SMOE_SYMBOL(smoe_fiber_switch) "\n"
    SMOE_SYMBOL(smoe_fiber_switch) ":\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".globl " SMOE_SYMBOL(smoe_fiber_start) "\n"
    SMOE_SYMBOL(smoe_fiber_start) ":\n"
    "  movq %r12, %rdi\n"
    "  callq *%r13\n"
    "  ud2\n"
    SMOE_TEXT_END);
// clang-format on
// r15 r14 r13 r12 rbx rbp, the return address, and two zeros: smoe_fiber_start begins 16 below the aligned top.
constexpr int kFrameWords = 9;
constexpr int kArgWord = 3, kEntryWord = 2, kReturnWord = 6;
#else
// clang-format off
asm(SMOE_TEXT_BEGIN
    ".globl " SMOE_SYMBOL(smoe_fiber_switch) "\n"
    ".p2align 2\n"
    SMOE_SYMBOL(smoe_fiber_switch) ":\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
    "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"
    "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n"
    "  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
    "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n"
    "  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n"
    "  ret\n"
    ".globl " SMOE_SYMBOL(smoe_fiber_start) "\n"
    ".p2align 2\n"
    SMOE_SYMBOL(smoe_fiber_start) ":\n"
    "  mov x0, x19\n"
    "  blr x20\n"
    "  brk #0\n"
    SMOE_TEXT_END);
// clang-format on
constexpr int kFrameWords = 20;  // x19..x30, d8..d15
constexpr int kArgWord = 0, kEntryWord = 1, kReturnWord = 11;
#endif

#endif

void Fiber::prepare(void* stack, size_t bytes, void (*entry)(void*), void* arg) {
#ifdef SMOE_FIBER_ASAN
  __asan_unpoison_memory_region(stack, bytes);  // frames of an abandoned run
#endif
  stack_ = stack;
  bytes_ = bytes;
  fake_stack_ = nullptr;
#ifdef SMOE_FIBER_USES_UCONTEXT
  // makecontext passes ints only: pointers travel in halves.
  struct Start {
    static void run(unsigned entry_high, unsigned entry_low, unsigned arg_high, unsigned arg_low) {
      const auto join = [](unsigned high, unsigned low) { return static_cast<uintptr_t>(uint64_t{high} << 32 | low); };
      reinterpret_cast<void (*)(void*)>(join(entry_high, entry_low))(reinterpret_cast<void*>(join(arg_high, arg_low)));
    }
  };
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  const uint64_t e = reinterpret_cast<uintptr_t>(entry), a = reinterpret_cast<uintptr_t>(arg);
  makecontext(&context_, reinterpret_cast<void (*)()>(&Start::run), 4, static_cast<unsigned>(e >> 32),
              static_cast<unsigned>(e), static_cast<unsigned>(a >> 32), static_cast<unsigned>(a));
#else
  // The frame is popped to a 16-byte aligned address, which both ABIs want where smoe_fiber_start calls.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
  uintptr_t* const frame = reinterpret_cast<uintptr_t*>(top) - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof(uintptr_t));
  frame[kArgWord] = reinterpret_cast<uintptr_t>(arg);
  frame[kEntryWord] = reinterpret_cast<uintptr_t>(entry);
  frame[kReturnWord] = reinterpret_cast<uintptr_t>(&smoe_fiber_start);
  sp_ = frame;
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  left_fiber = &from;
#ifdef SMOE_FIBER_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_, to.bytes_);
#endif
#ifdef SMOE_FIBER_USES_UCONTEXT
  swapcontext(&from.context_, &to.context_);
#else
  smoe_fiber_switch(&from.sp_, to.sp_);
#endif
  arrived(from);
}

void Fiber::arrived(Fiber& self) {
#ifdef SMOE_FIBER_ASAN
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self.fake_stack_, &bottom, &bytes);
  if (left_fiber != nullptr && left_fiber->stack_ == nullptr) {
    left_fiber->stack_ = const_cast<void*>(bottom);
    left_fiber->bytes_ = bytes;
  }
#else
  (void)self;
#endif
}

bool StackPool::reserve(int count) {
  if (count <= count_) return true;
  release();
  const size_t each = kStackBytes + page_bytes();
  void* const base =
      mmap(nullptr, each * static_cast<size_t>(count), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return false;
  base_ = base;
  count_ = count;
  for (int i = 0; i < count; ++i) {
    mprotect(static_cast<unsigned char*>(base) + each * static_cast<size_t>(i), page_bytes(), PROT_NONE);
  }
  return true;
}

void* StackPool::stack(int index) const {
  return static_cast<unsigned char*>(base_) + (kStackBytes + page_bytes()) * static_cast<size_t>(index) + page_bytes();
}

size_t StackPool::stack_bytes() const { return kStackBytes; }

void StackPool::release() {
  if (base_ == nullptr) return;
#ifdef SMOE_FIBER_ASAN
  for (int i = 0; i < count_; ++i) __asan_unpoison_memory_region(stack(i), kStackBytes);
#endif
  munmap(base_, (kStackBytes + page_bytes()) * static_cast<size_t>(count_));
  base_ = nullptr;
  count_ = 0;
}

}  // namespace smoe::cu::emu
