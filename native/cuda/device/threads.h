// Indices, launches, barriers, warp operations and pure functions of cu.h on the GPU. emu/threads.h is the twin.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "cuda/types.h"

namespace smoe::cu {

#define SMOE_DEVICE __device__ __forceinline__
#define SMOE_UNROLL _Pragma("unroll")
#define SMOE_UNROLL4 _Pragma("unroll 4")
#define SMOE_UNROLL1 _Pragma("unroll 1")
#define SMOE_KERNEL(threads, min_blocks) static __global__ void __launch_bounds__(threads, min_blocks)

using Stream = cudaStream_t;
constexpr uint32_t kFullMask = 0xFFFFFFFFu;

SMOE_DEVICE int tid() { return static_cast<int>(threadIdx.x); }
SMOE_DEVICE int lane() { return static_cast<int>(threadIdx.x & 31); }
// The same, read where it stands: what is reckoned from it is not kept in registers from one turn of a loop to the
// next.
SMOE_DEVICE int lane_read_here() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
SMOE_DEVICE int warp() { return static_cast<int>(threadIdx.x >> 5); }
SMOE_DEVICE int nthreads() { return static_cast<int>(blockDim.x); }
SMOE_DEVICE int bid() { return static_cast<int>(blockIdx.x); }
SMOE_DEVICE int nblocks() { return static_cast<int>(gridDim.x); }

struct Shape {
  int64_t blocks = 1;
  int threads = 32;
  size_t shared = 0;
  bool pdl = false;  // starts while its predecessor drains (sm_90; elsewhere an ordinary launch)
};

// Whether the code of this kernel that the current device runs has pdl_wait(). What was compiled for an older one has
// not, and a GPU since sm_90 that runs it (as PTX) would let it start, and race, all the same. All kernels are compiled
// for the same architectures, so one is asked per device.
inline cudaError_t has_pdl(const void* kernel, bool* has) {
  constexpr int kDevices = 64;
  static std::atomic<int8_t> known[kDevices];  // 0: not yet, 1: no, 2: yes
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  int8_t answer = device < kDevices ? known[device].load(std::memory_order_relaxed) : int8_t{0};
  if (answer == 0) {
    cudaFuncAttributes attributes = {};
    error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    answer = attributes.ptxVersion >= 90 ? 2 : 1;
    if (device < kDevices) known[device].store(answer, std::memory_order_relaxed);
  }
  *has = answer == 2;
  return cudaSuccess;
}

// Above 48 KB, static arrays included, of which no kernel has more than 32 KB, the limit has to be raised for each; and
// never lowered, as a graph may hold a larger launch.
inline cudaError_t allow_shared(const void* kernel, size_t bytes) {
  if (bytes <= 16 * 1024) return cudaSuccess;
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess || static_cast<size_t>(attributes.maxDynamicSharedSizeBytes) >= bytes) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// 0, or the cudaError_t.
template <class Args>
int launch(Stream stream, const Shape& shape, void (*kernel)(Args), const Args& args) {
  bool pdl = false;
  cudaError_t error = allow_shared(reinterpret_cast<const void*>(kernel), shape.shared);
  if (error == cudaSuccess && shape.pdl) error = has_pdl(reinterpret_cast<const void*>(kernel), &pdl);
  if (error != cudaSuccess) return static_cast<int>(error);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  return static_cast<int>(cudaLaunchKernelEx(&config, kernel, args));
}

SMOE_DEVICE void sync() { __syncthreads(); }
SMOE_DEVICE void bar(int id, int count) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory"); }
SMOE_DEVICE void bar_arrive(int id, int count) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory"); }

SMOE_DEVICE void sync_warp(uint32_t mask = kFullMask) { __syncwarp(mask); }
template <class T>
SMOE_DEVICE T shfl(T value, int source, uint32_t mask = kFullMask) {
  return __shfl_sync(mask, value, source);
}
template <class T>
SMOE_DEVICE T shfl_xor(T value, int bits, uint32_t mask = kFullMask) {
  return __shfl_xor_sync(mask, value, bits);
}
template <class T>
SMOE_DEVICE T shfl_up(T value, int delta, uint32_t mask = kFullMask) {
  return __shfl_up_sync(mask, value, delta);
}
template <class T>
SMOE_DEVICE T shfl_down(T value, int delta, uint32_t mask = kFullMask) {
  return __shfl_down_sync(mask, value, delta);
}
SMOE_DEVICE uint32_t ballot(bool predicate, uint32_t mask = kFullMask) { return __ballot_sync(mask, predicate); }
SMOE_DEVICE bool any(bool predicate, uint32_t mask = kFullMask) { return __any_sync(mask, predicate) != 0; }
SMOE_DEVICE bool all(bool predicate, uint32_t mask = kFullMask) { return __all_sync(mask, predicate) != 0; }
SMOE_DEVICE uint32_t match_any(uint32_t value, uint32_t mask = kFullMask) { return __match_any_sync(mask, value); }
// Of all 32 lanes, in one instruction.
SMOE_DEVICE uint32_t warp_max_of(uint32_t value) { return __reduce_max_sync(kFullMask, value); }
SMOE_DEVICE uint32_t warp_min_of(uint32_t value) { return __reduce_min_sync(kFullMask, value); }

// Every thread that touches what an earlier kernel wrote, or that writes, calls it first. Empty before sm_90, where
// launches do not overlap.
SMOE_DEVICE void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The successor may start its prologue. A scheduling hint: publishes nothing. Called behind pdl_wait, so that a
// prologue may read what launches before its predecessor wrote: these have ended.
SMOE_DEVICE void pdl_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

SMOE_DEVICE int popc(uint32_t x) { return __popc(x); }
SMOE_DEVICE int popc(uint64_t x) { return __popcll(x); }
SMOE_DEVICE int ffs(uint32_t x) { return __ffs(static_cast<int>(x)); }
SMOE_DEVICE int ffs(uint64_t x) { return __ffsll(static_cast<long long>(x)); }
SMOE_DEVICE int clz(uint32_t x) { return __clz(static_cast<int>(x)); }
SMOE_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SMOE_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t result;  // __byte_perm ignores the sign-spreading bit
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(s));
  return result;
}
template <int table>
SMOE_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(table));
  return result;
}
// to_float(f16) of types.h as one instruction. The bits of the f16 are the lower half of `bits`.
SMOE_DEVICE float half_to_float(uint32_t bits) {
  float result;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(result) : "r"(bits));
  return result;
}
SMOE_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}
// pack2() of types.h as one instruction.
SMOE_DEVICE uint32_t round_bf16x2(float low, float high) {
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
// Within a few units of the last place, in three instructions each. A quotient by more than 2^126 is 0.
SMOE_DEVICE float fast_exp(float x) { return __expf(x); }
SMOE_DEVICE float fast_divide(float a, float b) { return __fdividef(a, b); }
SMOE_DEVICE int64_t off(int64_t a, int64_t b) { return a * b; }

}  // namespace smoe::cu
