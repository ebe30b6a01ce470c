// The GPU side of the benchmark that is not the library's: random data, ceilings of the device, time. Host code sees
// streams as the launch table has them; the same source runs in emulation.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

namespace smoe::bench {

// Random bits, the same for a seed on every device.
enum class Fill : int {
  Bf16 = 0,    // uniform in +-scale
  Codes = 1,   // any bits
  F8 = 2,      // E4M3 bytes, none of them NaN
  T2 = 3,      // 2-bit codes 0..2
  Floats = 4,  // f32, uniform in +-scale
  Word = 5,    // `seed` itself in every word
};
struct FillArgs {
  uint32_t* to = nullptr;
  int64_t words = 0;
  uint32_t seed = 0;
  Fill kind = Fill::Bf16;
  float scale = 1;
};
cu::CudaError fill_random(void* stream, const FillArgs& args);

// Rows of variance 1, as f32 for the router and rounded to bf16 for the experts.
struct ActivationArgs {
  float* x = nullptr;
  void* plane = nullptr;  // bf16
  int64_t count = 0;      // even
  uint32_t seed = 0;
};
cu::CudaError fill_activations(void* stream, const ActivationArgs& args);

// Reads `bytes` (a multiple of 16) once a lap. sink [blocks * 512] keeps the loads alive.
struct ReadArgs {
  const void* from = nullptr;
  int64_t bytes = 0;
  uint32_t* sink = nullptr;
  int blocks = 0;
  int laps = 1;  // over the same bytes
};
cu::CudaError read_all(void* stream, const ReadArgs& args);

// Tensor instructions on registers (wgmma: B in shared memory) and nothing else.
struct MultiplyArgs {
  uint32_t* sink = nullptr;  // [blocks * 256]
  int iterations = 0;
  int blocks = 0;
  bool wgmma = false;
};
cu::CudaError multiply_only(void* stream, const MultiplyArgs& args);
double multiply_flops(const MultiplyArgs& args);

// A kernel that does nothing, for the time from one launch to the next.
cu::CudaError launch_nothing(void* stream, bool pdl);

// Time on the stream between two points: events on a GPU, the clock in emulation. seconds() waits for the second.
class Timer {
 public:
  Timer();
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start(void* stream);
  void stop(void* stream);
  double seconds();

 private:
  struct State;
  State* state_;
};

}  // namespace smoe::bench
