// What a device has of something: for launches, which choose a kernel by it; kernels see cu.h alone.
#pragma once

#include "cuda/cu.h"

#ifdef __CUDACC__
#include "cuda/device/limits.h"
#else
#include "cuda/emu/limits.h"
#endif
