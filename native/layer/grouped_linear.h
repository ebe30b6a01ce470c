// Dense linear maps over packed matrices: router logits, attention projections, output logits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/thread_pool.h"
#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"
#include "layer/row_blocks.h"

namespace smoe {

// y = x W^T + b for a number of rows. x [rows, K] (stride x_stride floats, 0 = K), out [rows, N] (stride out_stride, 0
// = N), bias [N] f32 or null.
struct LinearArgs {
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;
  const float* x = nullptr;
  int64_t rows = 0;
  int64_t x_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Bytes of scratch that linear() needs for f32 and bf16 weights; 64-byte aligned memory.
size_t linear_workspace_bytes(int64_t rows, int64_t k);
void linear(const KernelTable& kernels, ThreadPool& pool, Precision precision, const LinearArgs& args, void* workspace);

}  // namespace smoe
