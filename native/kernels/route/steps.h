// The steps of routing one token, in the order of specs/routing.md section 0: score -> key -> select -> weigh. A new
// rule of the catalogue is a new case in one of them; nothing else passes between them than this context.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/route/router.h"

namespace smoe {

// Groups are compared in an array on the stack; models have 4 to 16.
constexpr int kMaxGroups = 256;

struct RouteContext {
  const KernelTable& kernels;
  const RouterConfig& config;
  const float* logits;  // [E] as they came
  const float* bias;    // [E] or null
  float* score;         // [E]
  float* key;           // [E]
  int32_t* ids;         // [k]
  float* weights;       // [k]
  int count = 0;        // selected
};

// NaN -> -inf, +inf -> the largest finite value: logits before the score, keys after the bias. -inf means masked.
inline float sanitised(float x) {
  const float bounded = x > FLT_MAX ? FLT_MAX : x;
  return bounded >= -FLT_MAX ? bounded : -INFINITY;  // selections, not branches: loops over it vectorise
}

// score = act(sanitised logits). Returns the number of experts that are not masked.
int64_t score_experts(RouteContext& context);
// key = score + bias; -inf for masked experts, and the fill value outside the groups kept.
void make_keys(RouteContext& context);
// The k best keys in the order (key descending, id ascending), fewer when fewer are above -inf.
void select_experts(RouteContext& context);
// The same in one pass over the keys.
void select_in_one_pass(RouteContext& context);
// weights of the selected experts; ids -1 and weight 0 in the slots left over.
void weigh_experts(RouteContext& context);

}  // namespace smoe
