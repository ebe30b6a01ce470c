// P3, P4 on mma.sync: a kernel per tile, those that know codes in a .cu of their own.
#pragma once

#include "kernels/cuda_launches.h"
#include "kernels/experts/grouped_gemm.cuh"

namespace smoe::cu {

template <int TN, bool codes, bool nested = false>
int grouped_gemm_tiles(Stream stream, const GroupedGemmArgs& args) {
  return launch(stream, {args.blocks > 0 ? args.blocks : 1, kGemmThreads, kGroupedShared<TN>, true},
                &grouped_gemm<TN, codes, nested>, args);
}

int grouped_gemm_codes(Stream stream, const GroupedGemmArgs& args);
int grouped_gemm_parts(Stream stream, const GroupedGemmArgs& args);
// One bf16 plane of either operand, rows of whole aligned 16-byte chunks.
int grouped_gemm_wide_tiles(Stream stream, const GroupedGemmArgs& args);
// The same, matrices of any format; and with residual planes.
int grouped_gemm_wide_codes_tiles(Stream stream, const GroupedGemmArgs& args);
int grouped_gemm_wide_nested_tiles(Stream stream, const GroupedGemmArgs& args);
// Residual planes, rows that no wide tile can read.
int grouped_gemm_nested(Stream stream, const GroupedGemmArgs& args);

}  // namespace smoe::cu
