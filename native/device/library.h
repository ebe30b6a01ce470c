// Loads a CUDA backend: the plug-in smoe_cuda beside the addon, or any library that exports smoe_cuda_table() (the
// emulation, in tests).
#pragma once

#include <string>

#include "core/status.h"
#include "kernels/cuda_table.h"

namespace smoe {

struct CudaLibrary {
  const cu::CudaTable* table = nullptr;  // null: `why` says what failed
  std::string path;                      // of the file that was tried
  std::string why;
};

// The file that cuda_library() loads; to be set before its first use, ignored later. Empty: there is none.
void set_cuda_library(std::string path);
// Loads on first use, once in a process; it stays loaded. Never throws. A table of another version is refused.
const CudaLibrary& cuda_library();

}  // namespace smoe
