// The table of a CUDA backend, for nvcc and, as C++, for the emulation.
#include "kernels/cuda_table.h"

#include "cuda/launch_stream.h"
#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

template <class Args, int (*body)(Stream, const Args&)>
CudaError launch_entry(void* stream, const Args* args) {
  Stream on = nullptr;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  return left_stream(stream, body(on, *args));
}

CudaTable filled() {
  CudaTable table = {};
  table.version = kCudaTableVersion;
  table.bytes = cuda_table_bytes();
  table.runtime = cuda_runtime();
#define SMOE_LAUNCH(name, Args) table.name = &launch_entry<Args, &launch_##name>;
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH
  return table;
}

}  // namespace
}  // namespace smoe::cu

#if defined(_WIN32)
#define SMOE_EXPORT __declspec(dllexport)
#else
#define SMOE_EXPORT __attribute__((visibility("default")))
#endif

extern "C" SMOE_EXPORT const smoe::cu::CudaTable* smoe_cuda_table() {
  static const smoe::cu::CudaTable table = smoe::cu::filled();
  return &table;
}
