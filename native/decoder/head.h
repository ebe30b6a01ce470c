// Final norm, logits and negative log-likelihoods of some rows.
#pragma once

#include "core/workspace.h"
#include "decoder/decoder.h"

namespace smoe {

struct HeadArgs {
  float* x = nullptr;  // [rows, H] residual stream; overwritten by its norm
  int64_t rows = 0;
  float* logits = nullptr;           // [rows, V] or null
  float* last_logits = nullptr;      // [V] of the last row, or null
  const int32_t* targets = nullptr;  // [rows], with nll
  double* nll = nullptr;             // [rows] or null
};

size_t head_bytes(const Decoder& decoder, int64_t rows);
// Takes that much from the workspace and gives it back.
void head(const Decoder& decoder, const KernelTable& kernels, ThreadPool& pool, const HeadArgs& args,
          Workspace& workspace);

}  // namespace smoe
