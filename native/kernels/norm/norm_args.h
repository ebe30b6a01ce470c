// Arguments of the CUDA kernels that pass over rows: embedding, norms, splitting into planes.
#pragma once

#include "cuda/operands.h"

namespace smoe::cu {

// x[t] = row ids[t] of the table.
struct EmbedArgs {
  const int32_t* ids = nullptr;  // [T], checked by the host
  AtomMatrix table;              // [V, H], Bf16 or Bf16x3: the output projection when tied
  int64_t hidden = 0;
  const int32_t* num_tokens = nullptr;
  int64_t max_tokens = 0;
  float* x = nullptr;  // [T, H]
};

enum class RowNorm : int { None = 0, Rms = 1, Layer = 2 };

// u = norm(x) + look_ahead_factor * look_ahead, as f32 and as planes.
struct NormRowsArgs {
  RowNorm kind = RowNorm::None;
  const float* x = nullptr;  // [T, x_stride]
  int64_t width = 0, x_stride = 0;
  const float* weight = nullptr;  // [width]; null: 1
  const float* bias = nullptr;    // [width] or null
  float eps = 0;
  const float* look_ahead = nullptr;  // [T, width] or null
  float look_ahead_factor = 0;
  const int32_t* num_tokens = nullptr;  // null: max_tokens
  int64_t max_tokens = 0;
  float* out = nullptr;  // [T, width] or null; may be x
  Planes planes;         // [T, width] or none
};

}  // namespace smoe::cu
