// Declarations of the launches, for the .cu files, the table and the kernel tests. Includes cu.h: under nvcc the GPU,
// elsewhere the emulator.
#pragma once

#include "cuda/cu.h"
#include "kernels/cuda_args.h"

namespace smoe::cu {

#define SMOE_LAUNCH(name, Args) int launch_##name(Stream stream, const Args& args);
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH

}  // namespace smoe::cu
