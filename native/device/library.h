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

// Loads a file; empty: there is none. Never throws. A table of another version is refused.
CudaLibrary load_cuda_library(const std::string& path);

// The file that cuda_library() loads; to be set before its first use, ignored later.
void set_cuda_library(std::string path);
// Loads on first use, once in a process; it stays loaded.
const CudaLibrary& cuda_library();

}  // namespace smoe
