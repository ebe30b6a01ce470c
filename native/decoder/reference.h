// The whole forward pass in double precision over one sequence, without cache, chunks or threads. Used by tests only.
#pragma once

#include <vector>

#include "decoder/decoder.h"

namespace smoe::reference {

struct Pass {
  std::vector<double> logits;   // [T, V]
  std::vector<int32_t> ids;     // chosen experts, layer after layer
  double router_margin = 1e30;  // smallest gap between a chosen and a refused router logit: ties make tests fickle
};

// Routers must be softmax or sigmoid top-k without groups or bias.
Pass decoder(const Decoder& model, const std::vector<int32_t>& ids);

}  // namespace smoe::reference
