// Timer: events of the GPU, or the host's clock where there is none (emulated launches end before they return).
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include <chrono>
#endif

#include "cuda/launch_stream.h"
#include "device_kernels.h"

namespace smoe::bench {

#ifdef __CUDACC__

struct Timer::State {
  cudaEvent_t first = nullptr, last = nullptr;
};
Timer::Timer() : state_(new State) {
  cudaEventCreate(&state_->first);
  cudaEventCreate(&state_->last);
}
Timer::~Timer() {
  cudaEventDestroy(state_->first);
  cudaEventDestroy(state_->last);
  delete state_;
}
namespace {
void record(void* stream, cudaEvent_t event) {
  cu::Stream on = nullptr;
  if (cu::enter_stream(stream, &on) == cu::CudaError::None) cudaEventRecord(event, on);
}
}  // namespace
void Timer::start(void* stream) { record(stream, state_->first); }
void Timer::stop(void* stream) { record(stream, state_->last); }
double Timer::seconds() {
  float milliseconds = 0;
  if (cudaEventSynchronize(state_->last) != cudaSuccess) return 0;
  if (cudaEventElapsedTime(&milliseconds, state_->first, state_->last) != cudaSuccess) return 0;
  return milliseconds * 1e-3;
}

#else

struct Timer::State {
  std::chrono::steady_clock::time_point first, last;
};
Timer::Timer() : state_(new State) {}
Timer::~Timer() { delete state_; }
void Timer::start(void*) { state_->first = std::chrono::steady_clock::now(); }
void Timer::stop(void*) { state_->last = std::chrono::steady_clock::now(); }
double Timer::seconds() { return std::chrono::duration<double>(state_->last - state_->first).count(); }

#endif

}  // namespace smoe::bench
