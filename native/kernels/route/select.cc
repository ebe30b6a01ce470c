#include "kernels/route/steps.h"

namespace smoe {
namespace {

// A group with one expert left of two and more comes after those with two, but can be kept: the missing second counts
// as the lowest key.
float group_score(const float* key, int64_t size, GroupReduce reduce) {
  float best = -INFINITY, second = -INFINITY;
  for (int64_t e = 0; e < size; ++e) {
    if (key[e] > best) {
      second = best;
      best = key[e];
    } else if (key[e] > second) {
      second = key[e];
    }
  }
  if (reduce == GroupReduce::Max || !(best > -INFINITY)) return best;
  return best + (second > -INFINITY ? second : -FLT_MAX);
}

// The position of the best value after (last_value, last) in the total order, -1 when none is above -inf. Walking the
// order this way needs no marks and cannot return a position twice.
template <class Index>
Index next_in_order(const float* value, Index size, float last_value, Index last) {
  Index best = -1;
  for (Index i = 0; i < size; ++i) {
    const bool after = value[i] < last_value || (value[i] == last_value && i > last);
    if (after && value[i] > (best < 0 ? -INFINITY : value[best])) best = i;
  }
  return best;
}

void keep_groups(const RouterConfig& config, float* key) {
  const int64_t size = config.experts / config.groups;
  float score[kMaxGroups];
  bool kept[kMaxGroups] = {};
  for (int g = 0; g < config.groups; ++g) score[g] = group_score(key + g * size, size, config.group_reduce);
  float last_score = INFINITY;
  int last = -1;
  for (int n = 0; n < config.groups_kept; ++n) {
    const int g = next_in_order(score, config.groups, last_score, last);
    if (g < 0) break;
    kept[g] = true;
    last = g;
    last_score = score[g];
  }
  const float fill = config.group_fill == GroupFill::Zero ? 0.0f : -INFINITY;
  for (int g = 0; g < config.groups; ++g) {
    if (kept[g]) continue;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      if (key[e] > -INFINITY) key[e] = fill;  // a masked expert stays masked
    }
  }
}

}  // namespace

void make_keys(RouteContext& context) {
  const RouterConfig& config = context.config;
  const float *const logits = context.logits, *const score = context.score, *const bias = context.bias;
  float* const key = context.key;
  if (bias == nullptr) {
    for (int64_t e = 0; e < config.experts; ++e) key[e] = logits[e] >= -FLT_MAX ? score[e] : -INFINITY;
  } else {
    for (int64_t e = 0; e < config.experts; ++e) {
      const float biased = sanitised(score[e] + bias[e]);
      key[e] = logits[e] >= -FLT_MAX ? biased : -INFINITY;
    }
  }
  if (config.select == SelectKind::GroupTopK && config.groups_kept < config.groups) keep_groups(config, key);
}

void select_experts(RouteContext& context) {
  int64_t last = -1;
  float last_key = INFINITY;
  context.count = 0;
  while (context.count < context.config.k) {
    last = next_in_order(context.key, context.config.experts, last_key, last);
    if (last < 0) break;
    last_key = context.key[last];
    context.ids[context.count++] = static_cast<int32_t>(last);
  }
}

// Insertion into the sorted best so far. Ids come in ascending order, so that with strict comparisons the lower id
// stays ahead on a tie. On random keys about k*ln(E/k) + k insertions happen, the other keys cost one comparison. The
// keys of the best so far lie in weights, which the next step overwrites.
void select_in_one_pass(RouteContext& context) {
  const int k = context.config.k;
  float* const best = context.weights;
  int n = 0;
  for (int64_t e = 0; e < context.config.experts; ++e) {
    const float key = context.key[e];
    if (!(key > (n == k ? best[k - 1] : -INFINITY))) continue;
    int j = n < k ? n++ : k - 1;
    for (; j > 0 && best[j - 1] < key; --j) {
      best[j] = best[j - 1];
      context.ids[j] = context.ids[j - 1];
    }
    best[j] = key;
    context.ids[j] = static_cast<int32_t>(e);
  }
  context.count = n;
}

}  // namespace smoe
