// Routers for tests of the kernels that route: K1 and P1.
#pragma once

#include "gpu.h"

namespace smoe::cu::test {

// Where all schedules and orders would take too long.
inline const std::vector<Run> kTwo = {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Ascending},
                                      {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};

inline RouterConfig router(int experts, int k) {
  RouterConfig config;
  config.experts = experts;
  config.k = k;
  return config;
}

// Any of the catalogue, of 8 to 96 experts; what validate() refuses is among them.
template <class Below>
RouterConfig any_router(Below below) {
  const int experts = 8 * (1 + below(12)), k = 1 + below(experts < 12 ? experts : 12);
  RouterConfig config = router(experts, k);
  config.score = static_cast<ScoreFn>(below(3));
  config.has_bias = below(2) == 0;
  if (below(2) == 0) {
    config.select = SelectKind::GroupTopK;
    config.groups = below(2) == 0 ? 4 : 8;
    config.groups_kept = 1 + below(config.groups);
    config.group_reduce = experts / config.groups < 2 ? GroupReduce::Max : static_cast<GroupReduce>(below(2));
    config.group_fill = static_cast<GroupFill>(below(2));
    if (config.k > config.groups_kept * (experts / config.groups)) config.group_fill = GroupFill::Zero;
  }
  config.source = static_cast<WeighSource>(below(2));
  config.post = static_cast<WeighPost>(below(3));
  config.norm_p = static_cast<float>(below(3));
  config.norm_eps = static_cast<NormEps>(below(4));
  config.eps = 1e-6f;
  config.scale = below(2) == 0 ? 1.0f : 2.5f;
  // A sum of weights of both signs cancels; comparing it would compare rounding.
  if (config.source == WeighSource::Logit || config.score == ScoreFn::Identity) {
    if (config.post == WeighPost::None && config.norm_p == 1) config.norm_p = 2;
  }
  return config;
}

}  // namespace smoe::cu::test
