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
// The predicate is scale-d: true adds to the accumulators. Then the signs of A and B, and no transposition of B.
#define SMOE_WGMMA(shape, d, registers, ab)                                                            \
  asm volatile(                                                                                        \
      "{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"                                                   \
      "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" registers "}, " ab ", add, 1, 1, 0;\n}" \
      : d                                                                                              \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor))

template <int N>
struct WgmmaRs;

// Outputs and their names for N columns: N / 2 of them. Each list goes on where that of 16 columns less ends.
#define SMOE_O8 SMOE_D4(0)
#define SMOE_O16 SMOE_D8(0)
#define SMOE_O32 SMOE_O16, SMOE_D8(8)
#define SMOE_O48 SMOE_O32, SMOE_D8(16)
#define SMOE_O64 SMOE_O48, SMOE_D8(24)
#define SMOE_O80 SMOE_O64, SMOE_D8(32)
#define SMOE_O96 SMOE_O80, SMOE_D8(40)
#define SMOE_O112 SMOE_O96, SMOE_D8(48)
#define SMOE_O128 SMOE_O112, SMOE_D8(56)
#define SMOE_O144 SMOE_O128, SMOE_D8(64)
#define SMOE_O160 SMOE_O144, SMOE_D8(72)
#define SMOE_O176 SMOE_O160, SMOE_D8(80)
#define SMOE_O192 SMOE_O176, SMOE_D8(88)
#define SMOE_O208 SMOE_O192, SMOE_D8(96)
#define SMOE_O224 SMOE_O208, SMOE_D8(104)
#define SMOE_O240 SMOE_O224, SMOE_D8(112)
#define SMOE_O256 SMOE_O240, SMOE_D8(120)
#define SMOE_N8 "%0, %1, %2, %3"
#define SMOE_N16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SMOE_N32 SMOE_N16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SMOE_N48 SMOE_N32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define SMOE_N64 SMOE_N48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SMOE_N80 SMOE_N64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define SMOE_N96 SMOE_N80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define SMOE_N112 SMOE_N96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define SMOE_N128 SMOE_N112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define SMOE_N144 SMOE_N128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define SMOE_N8 "%0, %1, %2, %3"
#define SMOE_N160 SMOE_N144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define SMOE_N176 SMOE_N160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define SMOE_N192 SMOE_N176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define SMOE_N208 SMOE_N192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define SMOE_N224 SMOE_N208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define SMOE_N240 SMOE_N224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define SMOE_N256 SMOE_N240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#ifdef SMOE_HAS_WGMMA
#define SMOE_WGMMA_ISSUE(n, ab) SMOE_WGMMA("m64n" #n "k16", SMOE_O##n, SMOE_N##n, ab)
#else
#define SMOE_WGMMA_ISSUE(n, ab) __trap()
#endif
// ab: the names of a and of the descriptor, behind those of the outputs.
#define SMOE_WGMMA_RS(n, ab)                                                                          \
  template <>                                                                                         \
  struct WgmmaRs<n> {                                                                                 \
    SMOE_DEVICE static void issue(float (&acc)[n / 2], const uint32_t (&a)[4], uint64_t descriptor) { \
      SMOE_WGMMA_ISSUE(n, ab);                                                                        \
    }                                                                                                 \
  }
SMOE_WGMMA_RS(8, "{%4, %5, %6, %7}, %8");
SMOE_WGMMA_RS(16, "{%8, %9, %10, %11}, %12");
SMOE_WGMMA_RS(32, "{%16, %17, %18, %19}, %20");
SMOE_WGMMA_RS(48, "{%24, %25, %26, %27}, %28");
SMOE_WGMMA_RS(64, "{%32, %33, %34, %35}, %36");
SMOE_WGMMA_RS(80, "{%40, %41, %42, %43}, %44");
SMOE_WGMMA_RS(96, "{%48, %49, %50, %51}, %52");
SMOE_WGMMA_RS(112, "{%56, %57, %58, %59}, %60");
SMOE_WGMMA_RS(128, "{%64, %65, %66, %67}, %68");
SMOE_WGMMA_RS(144, "{%72, %73, %74, %75}, %76");
SMOE_WGMMA_RS(160, "{%80, %81, %82, %83}, %84");
SMOE_WGMMA_RS(176, "{%88, %89, %90, %91}, %92");
SMOE_WGMMA_RS(192, "{%96, %97, %98, %99}, %100");
SMOE_WGMMA_RS(208, "{%104, %105, %106, %107}, %108");
SMOE_WGMMA_RS(224, "{%112, %113, %114, %115}, %116");
SMOE_WGMMA_RS(240, "{%120, %121, %122, %123}, %124");
SMOE_WGMMA_RS(256, "{%128, %129, %130, %131}, %132");

#undef SMOE_WGMMA_RS
#undef SMOE_WGMMA_ISSUE
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
// GPU loads. Kernels with wgmma are compiled for nothing else of sm_90 (CMakeLists.txt), so that what says 90 is that.
template <class Args>
bool runs_wgmma(Stream, void (*kernel)(Args)) {
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) cudaGetLastError();  // the launch of something else must not report it
  return error == cudaSuccess && attributes.ptxVersion == 90 && attributes.binaryVersion == 90;
}

}  // namespace smoe::cu
