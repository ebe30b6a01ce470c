// A CUDA backend as the layers above see it: one table of functions, the twin of kernel_table.h. The plug-in smoe_cuda
// (built by nvcc) and the emulation (built by any compiler, for tests) export the same C function that returns it.
// No header of CUDA is needed to use it.
#pragma once

#include "cuda/runtime.h"
#include "kernels/cuda_args.h"

namespace smoe::cu {

// To be raised when any struct that passes through the table changes; the loader also compares the size of the table.
constexpr uint32_t kCudaTableVersion = 2;

struct CudaTable {
  uint32_t version;
  uint32_t bytes;  // sizeof(CudaTable)
  CudaRuntime runtime;
#define SMOE_LAUNCH(name, Args) CudaError (*name)(void* stream, const Args* args);
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH
};

}  // namespace smoe::cu

// Never null, never throws; looks at no device.
extern "C" {
using smoe_cuda_table_fn = const smoe::cu::CudaTable*();  // exported as "smoe_cuda_table"
}
