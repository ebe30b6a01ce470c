// Instruction sets of this CPU that the operating system also saves and restores.
#pragma once

namespace smoe {

struct CpuFeatures {
  bool avx2 = false;        // AVX2, FMA and F16C together
  bool avx512 = false;      // F, BW, DQ, VL and VNNI together
  bool avx512bf16 = false;  // avx512 and BF16
};

const CpuFeatures& cpu_features();

}  // namespace smoe
