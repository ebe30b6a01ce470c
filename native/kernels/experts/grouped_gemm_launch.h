// P3, P4: a kernel per tile, those that know codes in a .cu of their own.
#pragma once

#include "kernels/cuda_launches.h"
#include "kernels/experts/grouped_gemm.cuh"

namespace smoe::cu {

// The large tile has half the tokens where there are codes, whose groups are summed in accumulators of their own.
template <bool codes>
int grouped_gemm_kind(Stream stream, const GroupedGemmArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  if (args.max_rows > int64_t{64} * (args.max_groups > 0 ? args.max_groups : 1)) {
    constexpr int kLarge = codes ? 64 : 128;
    return launch(stream, {blocks, kGemmThreads, kGroupedShared<kLarge>, true}, &grouped_gemm<kLarge, codes>, args);
  }
  return launch(stream, {blocks, kGemmThreads, kGroupedShared<32>, true}, &grouped_gemm<32, codes>, args);
}

int grouped_gemm_codes(Stream stream, const GroupedGemmArgs& args);

}  // namespace smoe::cu
