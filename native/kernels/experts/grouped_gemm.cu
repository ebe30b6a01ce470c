// P3, P4 on mma.sync: matrices of bf16 parts, and the choice of a kernel.
#include "kernels/experts/grouped_gemm_launch.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

// What grouped_gemm_wide.cuh asks of rows.
bool whole_chunks(const GroupedGemmArgs& args) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(args.x.data) | static_cast<uintptr_t>((args.x_stride | args.k) * 2);
  return args.x.parts == 1 && at % 16 == 0;
}

}  // namespace

int grouped_gemm_parts(Stream stream, const GroupedGemmArgs& args) {
  const bool many = args.max_rows > int64_t{64} * (args.max_groups > 0 ? args.max_groups : 1);
  return many ? grouped_gemm_tiles<128, false>(stream, args) : grouped_gemm_tiles<32, false>(stream, args);
}

int launch_grouped_gemm(Stream stream, const GroupedGemmArgs& args) {
  if (args.max_rows <= 0 || args.experts <= 0 || args.features <= 0) return 0;
  if (args.experts > kGroupedExperts) return kInvalidValue;
  if (args.bf16_only && whole_chunks(args)) return grouped_gemm_wide_tiles(stream, args);
  if (args.bf16_only || args.no_codes) return grouped_gemm_parts(stream, args);
  if (args.nested.any) {
    return whole_chunks(args) ? grouped_gemm_wide_nested_tiles(stream, args) : grouped_gemm_nested(stream, args);
  }
  return whole_chunks(args) ? grouped_gemm_wide_codes_tiles(stream, args) : grouped_gemm_codes(stream, args);
}

}  // namespace smoe::cu
