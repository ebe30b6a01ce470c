// Row groups times packed matrices: the work list behind experts, shared experts and every dense linear map.
#pragma once

#include <cstdint>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"

namespace smoe {

enum class Precision : int { Exact = 0, Fast = 1 };

// Rows of one group, packed for TileFn: consecutive blocks of at most max_rows rows, every block
// [padded_k][m] in f32 or [padded_k/2][m] pairs in bf16. Blocks are as even as possible (13 rows are 7 + 6).
struct PackedRows {
  int64_t rows = 0;
  int64_t padded_k = 0;
  bool bf16 = false;
  void* data = nullptr;
};

// f32 activations for f32 weights always; bf16 activations for bf16 weights in Precision::Fast.
inline bool uses_bf16_rows(WeightFormat format, Precision precision) {
  return format == WeightFormat::BF16 && precision == Precision::Fast;
}
size_t packed_rows_bytes(int64_t rows, int64_t k, bool bf16);

// y = x W^T + b for T rows. x [rows, K], out [rows, N] (row stride out_stride floats), bias [N] f32 or null.
struct LinearArgs {
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;
  const float* x = nullptr;
  int64_t rows = 0;
  float* out = nullptr;
  int64_t out_stride = 0;  // 0 = N
};
size_t linear_workspace_bytes(int64_t rows, int64_t k);
void linear(const KernelTable& kernels, ThreadPool& pool, Precision precision, const LinearArgs& args, void* workspace);

}  // namespace smoe
