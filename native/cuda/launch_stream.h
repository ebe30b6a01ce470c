// What stands between the table's launches, which take a void* made by CudaRuntime::create_stream, and launch_<name>().
#pragma once

#include "cuda/cu.h"
#include "cuda/runtime.h"

namespace smoe::cu {

// Makes the stream's device the current one. Anything but None: do not launch.
CudaError enter_stream(void* stream, Stream* out);
// What launch_<name>() returned, as an error; last_error() names it.
CudaError left_stream(void* stream, int code);

}  // namespace smoe::cu
