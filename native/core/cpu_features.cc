#include "core/cpu_features.h"

#include <cstdint>

#if defined(SMOE_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace smoe {
namespace {

#if defined(SMOE_X86)

struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r = {0, 0, 0, 0};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
       static_cast<uint32_t>(out[3])};
#else
  __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
#endif
  return r;
}

// Only valid once CPUID reports OSXSAVE.
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool bit(uint32_t word, int index) { return ((word >> index) & 1u) != 0; }

CpuFeatures detect() {
  CpuFeatures features;
  const uint32_t last_leaf = cpuid(0, 0).a;
  if (last_leaf < 7) return features;
  const Registers one = cpuid(1, 0);
  const bool osxsave = bit(one.c, 27);
  const uint64_t state = osxsave ? saved_state() : 0;
  const bool ymm_saved = (state & 0x06) == 0x06;  // xmm, ymm
  const bool zmm_saved = (state & 0xe6) == 0xe6;  // and opmask, upper halves, upper registers
  const Registers seven = cpuid(7, 0);
  const bool fma = bit(one.c, 12), f16c = bit(one.c, 29), avx2 = bit(seven.b, 5);
  features.avx2 = ymm_saved && fma && f16c && avx2;
  const bool f = bit(seven.b, 16), dq = bit(seven.b, 17), bw = bit(seven.b, 30), vl = bit(seven.b, 31);
  const bool vnni = bit(seven.c, 11);
  features.avx512 = features.avx2 && zmm_saved && f && dq && bw && vl && vnni;
  const bool bf16 = seven.a >= 1 && bit(cpuid(7, 1).a, 5);
  features.avx512bf16 = features.avx512 && bf16;
  return features;
}

#else

CpuFeatures detect() { return CpuFeatures(); }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace smoe
