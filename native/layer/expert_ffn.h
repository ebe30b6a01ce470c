// The feed-forward of many experts at once: a work list of (group, range of weight tiles), so that skewed routing still
// balances over the threads.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "core/workspace.h"
#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"
#include "layer/grouped_linear.h"

namespace smoe {

// One feed-forward expert. GLU: y = down(act(gate x) * (up x)); plain MLP: gate is empty, y = down(act(up x)).
// Biases are f32 and may be empty.
struct ExpertWeights {
  PackedMatrix gate, up, down;                       // [I, H], [I, H], [H, I]
  std::vector<float> gate_bias, up_bias, down_bias;  // [I], [I], [H]

  size_t bytes() const;
};

// Refuses shapes that do not agree with each other or with `hidden`; `name` begins the message.
Status validate_expert(const ExpertWeights& expert, int64_t hidden, bool glu, const char* name);

// Refuses parameters that no activation has, or that a plain MLP (glu false) does not take; `name` begins the message.
Status validate_activation(const ActivationSpec& activation, bool glu, const char* name);

// Rows for one expert: inputs by pointer (no gather copy), outputs to consecutive rows.
struct ExpertGroup {
  const ExpertWeights* weights = nullptr;
  int64_t rows = 0;
  const float* const* inputs = nullptr;  // [rows] pointers to H floats
  const float* input_scale = nullptr;    // [rows] factor on the input (weight on input), or null
  float* out = nullptr;                  // [rows, H]
  int planes = kAllPlanes;               // of bit-nested matrices: how many to read
  // Filled by expert_ffn: packed inputs and packed hidden units, and the units as rows [rows, I] where packing them
  // needs a whole row (int8: its maximum per group).
  unsigned char* packed_x = nullptr;
  unsigned char* packed_h = nullptr;
  float* units = nullptr;
};

struct ExpertFfnArgs {
  ExpertGroup* groups = nullptr;
  int64_t count = 0;
  bool same_input = false;  // every group has the one same unscaled row (one token): it is packed once
  ActivationSpec activation;
  Precision precision = Precision::Fast;
  const CancelFlag* cancel = nullptr;
};

// Scratch of one group with `rows` rows, and of the work list.
size_t expert_group_bytes(const ExpertWeights& weights, int64_t rows);
size_t expert_items_bytes(int64_t groups, int threads);
// Cancelled when the flag was seen set between stages; `out` is then undefined.
Status expert_ffn(const KernelTable& kernels, ThreadPool& pool, const ExpertFfnArgs& args, Workspace& workspace);

}  // namespace smoe
