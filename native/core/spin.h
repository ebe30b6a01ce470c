// Waiting without sleeping, for what is expected within microseconds.
#pragma once

#include <chrono>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace smoe {

inline void cpu_pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
  __asm__ volatile("isb");
#else
  std::this_thread::yield();
#endif
}

// Pauses between two looks at the clock: about half a microsecond, so that the clock costs a few per cent of a spin.
constexpr int kPausesPerLook = 32;

// True as soon as done() is, false when that took longer than `limit`.
template <class Done>
bool spin_until(std::chrono::microseconds limit, const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (done()) return true;
      cpu_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace smoe
