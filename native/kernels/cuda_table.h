// A CUDA backend as the layers above see it: one table of functions, the twin of kernel_table.h. The plug-in smoe_cuda
// (built by nvcc) and the emulation (built by any compiler, for tests) export the same C function that returns it.
// No header of CUDA is needed to use it.
#pragma once

#include "cuda/runtime.h"
#include "kernels/cuda_args.h"

namespace smoe::cu {

// To be raised when any struct that passes through the table changes its meaning; changes of size the loader sees.
constexpr uint32_t kCudaTableVersion = 3;

struct CudaTable {
  uint32_t version;
  uint32_t bytes;  // cuda_table_bytes()
  CudaRuntime runtime;
#define SMOE_LAUNCH(name, Args) CudaError (*name)(void* stream, const Args* args);
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH
};

// Of the table and of one of each struct that its functions are given or led to.
constexpr uint32_t cuda_table_bytes() {
  size_t bytes = sizeof(CudaTable) + sizeof(AtomMatrix);
#define SMOE_LAUNCH(name, Args) bytes += sizeof(Args);
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH
  return static_cast<uint32_t>(bytes);
}

}  // namespace smoe::cu

// Never null, never throws; looks at no device.
extern "C" {
using smoe_cuda_table_fn = const smoe::cu::CudaTable*();  // exported as "smoe_cuda_table"
}
