// Arguments of the CUDA kernels that multiply integer weights by int8 activations, in the arithmetic of the CPU under
// Precision::Fast (int8-inl.h, pack-inl.h): codes, scales and sums of a row per scale group of the weight.
#pragma once

#include "kernels/experts/expert_args.h"

namespace smoe::cu {

// Columns that rows of codes are padded to: whole atoms of every format.
constexpr int kInt8Block = 128;
SMOE_HD constexpr int64_t int8_stride(int64_t k) { return (k + kInt8Block - 1) / kInt8Block * kInt8Block; }
SMOE_HD constexpr int64_t int8_groups(int64_t k, int group) {
  return group > 0 ? (int8_stride(k) + group - 1) / group : 1;
}
// The formats that these kernels know.
SMOE_HD constexpr bool int8_format(AtomFormat format) {
  return format == AtomFormat::W8 || format == AtomFormat::W4 || format == AtomFormat::T2;
}

// Rows of codes. Of every 32 columns, byte s is the column physical_k(s) (cuda/fragments.h), whatever the format of the
// weights; columns past the row are zero.
struct Int8Rows {
  uint8_t* codes = nullptr;  // [rows, stride], 16-byte aligned
  U32x2* scales = nullptr;   // [rows, groups]: an f32 scale, and the int32 sum of the group's codes
  int64_t stride = 0;        // int8_stride(K)
  int64_t groups = 0;        // from a row to the next
  int group = 0;             // columns of one scale; 0: the whole row (as AtomMatrix::group)
};

// Rows as matrices of several groups read them: the same rows once for each group. Or, dispatched, the rows of a
// dispatch, each in the groups of its expert's matrix: rows[0], whose `groups` suffice for all.
constexpr int kInt8Groups = 4;
struct Int8Operand {
  Int8Rows rows[kInt8Groups];
  int count = 0;
  bool dispatched = false;
};

// f32 rows to Int8Operand. `k` and the stride are even, rows 8-byte aligned.
struct QuantizeRowsArgs {
  const float* x = nullptr;
  int64_t x_stride = 0, k = 0;
  Int8Operand out;
  int64_t max_rows = 0;
  const int32_t* num_rows = nullptr;  // null: max_rows. Of no use with a dispatch, whose offsets say it
  // Dispatched: row r of expert e, offset[e] <= r < offset[e + 1], is row gather[r] of x, or the token of that bit of
  // mask[e], or (both null) row r itself; times row_scale[r].
  const AtomMatrix* weights = nullptr;  // [E]: their groups
  int experts = 0;
  const int32_t* offset = nullptr;   // [E + 1]
  const int32_t* gather = nullptr;   // [P]
  const uint64_t* mask = nullptr;    // [E]
  const float* row_scale = nullptr;  // [P] or null: 1
  int blocks = 0;
};

// K2 with int8 activations. Of `map`, x, h, bf16_only and weight_on_input are not read: a weight on the input is in the
// scales of dispatched rows.
struct GateUpInt8Args {
  GateUpArgs map;
  Int8Operand x;       // by token, or dispatched
  float* h = nullptr;  // [T * K, I] by row
};

// K3 with int8 activations. Of `map`, h and bf16_only are not read.
struct DownCombineInt8Args {
  DownCombineArgs map;
  Int8Rows h;  // rows of the dispatch
};

// P3, P4 with int8 activations. Of `map`, x, x_stride, no_codes and bf16_only are not read.
struct GroupedGemmInt8Args {
  GroupedGemmArgs map;
  Int8Operand x;  // rows as `gather` says
};

}  // namespace smoe::cu
