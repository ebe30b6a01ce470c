// Arguments of the CUDA kernels that read logits.
#pragma once

#include "cuda/operands.h"

namespace smoe::cu {

// nll[t] = log(sum(exp(logits[t]))) - logits[t][targets[t]], the sum in double.
struct NllArgs {
  const float* logits = nullptr;  // [T, V]
  const int32_t* targets = nullptr;
  int64_t tokens = 0, vocab = 0;
  double* nll = nullptr;  // [T]
};

// The next token of one row of logits by decoder/sampler.h: the same token as on the CPU for the same logits, up to the
// last bits of exp. position of the draw: step->position + step->tokens. -1: nothing to choose from.
struct SampleArgs {
  const float* logits = nullptr;  // [V]
  int64_t vocab = 0;
  const StepInput* step = nullptr;
  void* scratch = nullptr;  // sample_scratch_bytes(vocab), 8-byte aligned; what it holds does not matter
  int32_t* token = nullptr;
};

inline int64_t sample_scratch_bytes(int64_t vocab) { return 16 * vocab + 65536; }

}  // namespace smoe::cu
