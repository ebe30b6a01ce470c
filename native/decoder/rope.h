// Rotary angles of a run of positions.
#pragma once

#include "core/workspace.h"
#include "decoder/decoder.h"

namespace smoe {

struct RopeTable {
  float* cos = nullptr;  // [tokens, rotary_dim / 2]
  float* sin = nullptr;
  const AttentionConfig* made_for = nullptr;
};

// Takes room for the widest layer from the workspace.
size_t rope_bytes(int64_t half_dim, int64_t tokens);
RopeTable take_rope(int64_t half_dim, int64_t tokens, Workspace& workspace);
// Fills the table for positions [first, first + tokens), unless the layer it was last filled for turns alike.
void update_rope(const AttentionConfig& config, int64_t first, int64_t tokens, RopeTable* table);

}  // namespace smoe
