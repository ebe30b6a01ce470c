// Routing of one token in double precision, written from specs/routing.md without looking at the steps. Used by tests
// only.
#pragma once

#include <vector>

#include "kernels/route/router.h"

namespace smoe::reference {

struct Route {
  std::vector<int> ids;         // in slot order, only the selected
  std::vector<double> weights;  // of ids
  // The smallest difference between keys (or group scores) that decided an order or a selection: where it is below
  // the rounding of f32 scores, another selection is as good.
  double margin = 0;
};

Route route(const RouterConfig& config, const float* logits, const float* bias);

}  // namespace smoe::reference
