// NativeRouterConfig and given routing -> native.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "kernels/route/router.h"

namespace smoe {

struct RouterArgs {
  RouterConfig config;
  std::vector<float> model_bias;  // [E] or empty
};

// Parses and validates.
RouterArgs parse_router(napi_env env, napi_value value, const std::string& name);

// The arrays of a Routing in caller-independent memory.
struct RoutingArrays {
  std::vector<int32_t> ids, count;
  std::vector<float> weights;

  RoutingArrays(int64_t tokens, int slots);
  Routing view(int64_t tokens, int slots);
  // { ids, weights, count, logits? }
  Napi::Object to_js(Napi::Env env, const std::vector<float>* logits) const;
};

// Checks given assignments: ids in [-1, experts), finite weights.
Status check_assignments(const int32_t* ids, const float* weights, int64_t tokens, int slots, int64_t experts);

}  // namespace smoe
