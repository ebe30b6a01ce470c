#include "decoder/rope.h"

#include <cmath>

namespace smoe {

size_t rope_bytes(int64_t half_dim, int64_t tokens) {
  return 2 * Workspace::bytes_for<float>(static_cast<size_t>(half_dim * tokens));
}

RopeTable take_rope(int64_t half_dim, int64_t tokens, Workspace& workspace) {
  RopeTable table;
  table.cos = workspace.take<float>(static_cast<size_t>(half_dim * tokens));
  table.sin = workspace.take<float>(static_cast<size_t>(half_dim * tokens));
  return table;
}

void update_rope(const AttentionConfig& config, int64_t first, int64_t tokens, RopeTable* table) {
  const AttentionConfig* last = table->made_for;
  if (last != nullptr && last->inv_freq == config.inv_freq && last->rope_scale == config.rope_scale) return;
  table->made_for = &config;
  float* cos = table->cos;
  float* sin = table->sin;
  for (int64_t position = first; position < first + tokens; ++position) {
    for (const float frequency : config.inv_freq) {
      // The angle is rounded to f32 as in the models' training code: at position 10^5 that moves it by 4e-3, which is
      // what the weights were trained with. Its cosine is then exact to one rounding.
      const float angle = static_cast<float>(position) * frequency;
      *cos++ = static_cast<float>(std::cos(static_cast<double>(angle))) * config.rope_scale;
      *sin++ = static_cast<float>(std::sin(static_cast<double>(angle))) * config.rope_scale;
    }
  }
}

}  // namespace smoe
