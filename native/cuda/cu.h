// Everything a kernel may use of the machine: thread indices, barriers, warp operations, memory accesses, async copies,
// tensor instructions, launches. nvcc takes device/ (the only place with inline PTX); any other compiler takes emu/,
// which runs the same kernel source on the CPU and checks it (specs/cuda-kernels.md, section 4).
//
// Rules for kernels, which the emulator relies on: no <<<>>>, no raw threadIdx or __shared__, no loads and stores of
// global or shared memory other than through these wrappers, no warp-synchronous assumptions without a collective, no
// waiting for other blocks, frames that own nothing (a faulted launch abandons them), one plain struct of arguments.
#pragma once

#include "cuda/fragments.h"
#include "cuda/types.h"
#include "cuda/wgmma_descriptor.h"

#ifdef __CUDACC__
#include "cuda/device/async.h"
#include "cuda/device/memory.h"
#include "cuda/device/mma.h"
#include "cuda/device/threads.h"
#include "cuda/device/wgmma.h"
#else
#include "cuda/emu/memory.h"
#include "cuda/emu/mma.h"
#include "cuda/emu/threads.h"
#endif
