// wgmma with A in registers (sm_90a only) of cu.h on the GPU (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-
// Accumulate Instructions"). emu/mma.h is the twin. One specialisation per N, because inline PTX names every register.
#pragma once

#include "cuda/device/async.h"

namespace smoe::cu {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SMOE_HAS_WGMMA 1
#endif

#define SMOE_D4(i) "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3])
#define SMOE_D8(i) SMOE_D4(i), SMOE_D4(i + 4)
#define SMOE_D16(i) SMOE_D8(i), SMOE_D8(i + 8)
#define SMOE_D32(i) SMOE_D16(i), SMOE_D16(i + 16)
#define SMOE_D64(i) SMOE_D32(i), SMOE_D32(i + 32)
// The predicate is scale-d: true adds to the accumulators. Then the signs of A and B, and no transposition of B.
#define SMOE_WGMMA(shape, d, registers, ab)                                                            \
  asm volatile(                                                                                        \
      "{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"                                                   \
      "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" registers "}, " ab ", add, 1, 1, 0;\n}" \
      : d                                                                                              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor))

template <int N>
struct WgmmaRs;

template <>
struct WgmmaRs<8> {
  SMOE_DEVICE static void issue(float (&acc)[4], const uint32_t (&a)[4], uint64_t descriptor) {
#ifdef SMOE_HAS_WGMMA
    SMOE_WGMMA("m64n8k16", SMOE_D4(0), "%0, %1, %2, %3", "{%4, %5, %6, %7}, %8");
#else
    __trap();
#endif
  }
};

template <>
struct WgmmaRs<16> {
  SMOE_DEVICE static void issue(float (&acc)[8], const uint32_t (&a)[4], uint64_t descriptor) {
#ifdef SMOE_HAS_WGMMA
    SMOE_WGMMA("m64n16k16", SMOE_D8(0), "%0, %1, %2, %3, %4, %5, %6, %7", "{%8, %9, %10, %11}, %12");
#else
    __trap();
#endif
  }
};

template <>
struct WgmmaRs<32> {
  SMOE_DEVICE static void issue(float (&acc)[16], const uint32_t (&a)[4], uint64_t descriptor) {
#ifdef SMOE_HAS_WGMMA
    SMOE_WGMMA("m64n32k16", SMOE_D16(0), "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15",
               "{%16, %17, %18, %19}, %20");
#else
    __trap();
#endif
  }
};

template <>
struct WgmmaRs<64> {
  SMOE_DEVICE static void issue(float (&acc)[32], const uint32_t (&a)[4], uint64_t descriptor) {
#ifdef SMOE_HAS_WGMMA
    SMOE_WGMMA("m64n64k16", SMOE_D32(0),
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
               "{%32, %33, %34, %35}, %36");
#else
    __trap();
#endif
  }
};

template <>
struct WgmmaRs<128> {
  SMOE_DEVICE static void issue(float (&acc)[64], const uint32_t (&a)[4], uint64_t descriptor) {
#ifdef SMOE_HAS_WGMMA
    SMOE_WGMMA("m64n128k16", SMOE_D64(0),
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63",
               "{%64, %65, %66, %67}, %68");
#else
    __trap();
#endif
  }
};

#undef SMOE_WGMMA

// Moves registers between the warpgroups of a block, which was compiled for the mean: 8-multiples, 24..240.
template <int count>
SMOE_DEVICE void fewer_registers() {
#ifdef SMOE_HAS_WGMMA
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
SMOE_DEVICE void more_registers() {
#ifdef SMOE_HAS_WGMMA
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

template <int N>
SMOE_DEVICE void wgmma_rs(float (&acc)[N / 2], const uint32_t (&a)[4], uint64_t descriptor) {
  WgmmaRs<N>::issue(acc, a, descriptor);
}
SMOE_DEVICE void wgmma_fence() {
#ifdef SMOE_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
SMOE_DEVICE void wgmma_commit() {
#ifdef SMOE_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int pending>
SMOE_DEVICE void wgmma_wait() {
#ifdef SMOE_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

// The sums have arrived: nothing may read them before this, which the compiler cannot know from wgmma_wait.
template <int count>
SMOE_DEVICE void wgmma_done(float (&acc)[count]) {
  SMOE_UNROLL
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Whether a launch of this kernel on the current device runs code in which wgmma exists: that of sm_90a, which no other
// GPU loads. Code made from portable PTX says which PTX.
template <class Args>
bool runs_wgmma(Stream, void (*kernel)(Args)) {
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) cudaGetLastError();  // the launch of something else must not report it
  return error == cudaSuccess && attributes.ptxVersion == 90 && attributes.binaryVersion == 90;
}

}  // namespace smoe::cu
