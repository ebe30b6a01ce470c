// Routing of one token by one warp: score, key, select, weigh, with the rules of router.h (the CPU backend is the
// reference). Logits and scores lie in shared memory, expert e with lane e % 32.
#pragma once

#include <cfloat>
#include <cmath>

#include "cuda/cu.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

SMOE_DEVICE float route_sanitised(float x) {
  if (!(x >= -FLT_MAX)) return -INFINITY;
  return x > FLT_MAX ? FLT_MAX : x;
}

SMOE_DEVICE float warp_max(float x) {
  for (int bits = 16; bits > 0; bits /= 2) x = fmaxf(x, shfl_xor(x, bits));
  return x;
}

SMOE_DEVICE float warp_add(float x) {
  for (int bits = 16; bits > 0; bits /= 2) x += shfl_xor(x, bits);
  return x;
}

SMOE_DEVICE float route_sigmoid(float x) { return x >= 0 ? 1 / (1 + expf(-x)) : expf(x) / (1 + expf(x)); }

// score[e] of the sanitised logits; masked experts (-inf) score 0 under softmax. False when all are masked.
SMOE_DEVICE bool route_score(const RouterConfig& config, const float* logits, float* score) {
  const int experts = static_cast<int>(config.experts);
  float top = -INFINITY;
  for (int e = lane(); e < experts; e += 32) top = fmaxf(top, lds(logits + e));
  top = warp_max(top);
  if (top == -INFINITY) return false;
  float sum = 0;
  for (int e = lane(); e < experts; e += 32) {
    float s = lds(logits + e);
    if (config.score == ScoreFn::Softmax) sum += s = expf(s - top);
    if (config.score == ScoreFn::Sigmoid) s = route_sigmoid(s);
    sts(score + e, s);
  }
  if (config.score == ScoreFn::Softmax) {
    sum = warp_add(sum);
    for (int e = lane(); e < experts; e += 32) sts(score + e, lds(score + e) / sum);
  }
  return true;
}

struct Ranked {
  float key;
  int id;
};

// Key descending, id ascending; an id of -1 is nothing.
SMOE_DEVICE bool route_before(Ranked a, Ranked b) {
  if (a.id < 0 || b.id < 0) return a.id >= 0;
  return a.key > b.key || (a.key == b.key && a.id < b.id);
}

SMOE_DEVICE Ranked warp_first(Ranked mine) {
  for (int bits = 16; bits > 0; bits /= 2) {
    const Ranked other{shfl_xor(mine.key, bits), shfl_xor(mine.id, bits)};
    if (route_before(other, mine)) mine = other;
  }
  return mine;
}

// The best of key[0..count) after `last` in the total order, for the whole warp. Walking the order needs no marks, and
// cannot give an id twice whatever the keys are.
SMOE_DEVICE Ranked route_next(const float* key, int count, Ranked last) {
  Ranked best{-INFINITY, -1};
  for (int e = lane(); e < count; e += 32) {
    const Ranked mine{lds(key + e), e};
    if (mine.key > -INFINITY && (last.id < 0 || route_before(last, mine)) && route_before(mine, best)) best = mine;
  }
  return warp_first(best);
}

// Keys outside the groups kept become the fill value. Lane g scores group g.
SMOE_DEVICE void route_keep_groups(const RouterConfig& config, float* key) {
  const int size = static_cast<int>(config.experts) / config.groups;
  float best = -INFINITY, second = -INFINITY;
  if (lane() < config.groups) {
    for (int e = lane() * size; e < (lane() + 1) * size; ++e) {
      const float k = lds(key + e);
      if (k > best) {
        second = best;
        best = k;
      } else if (k > second) {
        second = k;
      }
    }
  }
  // A group with one expert left comes after those with two, but can be kept.
  if (config.group_reduce == GroupReduce::Sum2 && best > -INFINITY) best += second > -INFINITY ? second : -FLT_MAX;
  bool kept = false;
  for (int n = 0; n < config.groups_kept; ++n) {
    const Ranked winner = warp_first({best, !kept && best > -INFINITY ? lane() : -1});
    if (winner.id < 0) break;
    kept |= winner.id == lane();
  }
  const float fill = config.group_fill == GroupFill::Zero ? 0.0f : -INFINITY;
  sync_warp();
  if (lane() < config.groups && !kept) {
    for (int e = lane() * size; e < (lane() + 1) * size; ++e) {
      if (lds(key + e) > -INFINITY) sts(key + e, fill);
    }
  }
  sync_warp();
}

// The norm of the weights of `count` slots, slot j with lane j, summed in slot order; the same in all lanes.
SMOE_DEVICE double route_norm(float weight, int count, float p) {
  double sum = 0, largest = 0;
  for (int j = 0; j < count; ++j) {
    const double w = shfl(weight, j);
    sum += w;
    largest = fmax(largest, fabs(w));
  }
  if (p == 1.0f) return sum;
  if (largest == 0) return 0;
  sum = 0;
  for (int j = 0; j < count; ++j)
    sum += pow(fabs(static_cast<double>(shfl(weight, j))) / largest, static_cast<double>(p));
  return largest * pow(sum, 1.0 / p);
}

SMOE_DEVICE float route_weigh(const RouterConfig& config, float weight, int count) {
  if (config.post == WeighPost::Softmax) {
    const float top = warp_max(lane() < count ? weight : -INFINITY);
    weight = lane() < count ? expf(weight - top) : 0.0f;
    float sum = 0;
    for (int j = 0; j < count; ++j) sum += shfl(weight, j);
    weight /= sum;
  }
  if (config.post == WeighPost::Sigmoid) weight = route_sigmoid(weight);
  double factor = config.scale, denominator = 1;
  if (config.norm_p > 0) {
    denominator = route_norm(weight, count, config.norm_p);
    if (config.norm_eps == NormEps::Add) denominator += config.eps;
    if (config.norm_eps == NormEps::ClampMin) denominator = denominator > config.eps ? denominator : config.eps;
    if (config.norm_eps == NormEps::ZeroSafe) denominator = denominator > 0 ? denominator : 1;
  }
  if (denominator == 0) factor = 0, denominator = 1;
  constexpr double largest = FLT_MAX;
  return static_cast<float>(fmax(-largest, fmin(largest, weight / denominator * factor)));
}

// ids, weights: this token's row of slots; logits, scratch: experts floats of shared memory each, of this warp alone.
// logits are sanitised already.
SMOE_DEVICE void route_one_token(const RouterConfig& config, const float* bias, const float* logits, float* score,
                                 float* key, int32_t* ids, float* weights, int32_t* count_out) {
  const int experts = static_cast<int>(config.experts);
  int count = 0, my_id = -1;
  float my_weight = 0;
  if (route_score(config, logits, score)) {
    for (int e = lane(); e < experts; e += 32) {
      const float s = lds(score + e);
      const bool masked = lds(logits + e) == -INFINITY;
      sts(key + e, masked ? -INFINITY : route_sanitised(config.has_bias ? s + ldg(bias + e) : s));
    }
    sync_warp();
    if (config.select == SelectKind::GroupTopK && config.groups_kept < config.groups) route_keep_groups(config, key);
    Ranked last{INFINITY, -1};
    while (count < config.k) {
      last = route_next(key, experts, last);
      if (last.id < 0) break;
      if (lane() == count) my_id = last.id;
      ++count;
    }
    if (my_id >= 0) my_weight = lds((config.source == WeighSource::Logit ? logits : score) + my_id);
    my_weight = route_weigh(config, my_weight, count);
  }
  if (lane() < config.k) {
    stg(ids + lane(), my_id);
    stg(weights + lane(), my_id >= 0 ? my_weight : 0.0f);
  }
  if (lane() == 0) stg(count_out, count);
}

}  // namespace smoe::cu
