// Faults on purpose in the emulated runtime, for tests of the layers above. Kinds:
//   no-driver, no-device, old-device     from now on
//   out-of-memory                        one allocation, after as many good ones as `after` says
//   memory                               the device holds `after` bytes in all
//   launch, synchronize                  a sticky error at one launch (or graph), or synchronize, after that many good
//   none                                 nothing, and lost devices are as new
// SMOE_CUDA_EMU_FAULT=kind[:after] in the environment does the same at the first call of the process.
//
// Not faults, but ways to run a kernel that must all give the same; from the next launch on:
//   schedule                             0 lazy, 1 eager (engine.h); SMOE_CUDA_EMU_SCHEDULE=lazy|eager
//   order                                of blocks: 0 ascending, 1 descending, 2 random;
//                                        SMOE_CUDA_EMU_ORDER=ascending|descending|random
//   seed                                 of what is random
#pragma once

#if defined(_WIN32)
#define SMOE_EMU_EXPORT __declspec(dllexport)
#else
#define SMOE_EMU_EXPORT __attribute__((visibility("default")))
#endif

// 0, or 1 for a kind that is not known.
extern "C" SMOE_EMU_EXPORT int smoe_cuda_emu_inject(const char* kind, long long after);
