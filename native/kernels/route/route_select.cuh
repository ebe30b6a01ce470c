// Routing of one token by one warp: score, key, select, weigh, with the rules of router.h (the CPU backend is the
// reference). Logits lie in shared memory, keys in registers: expert e with lane e % 32.
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

// 1 / (1 + e^-x) or e^x / (1 + e^x), whichever does not overflow, by one exponential.
SMOE_DEVICE float route_sigmoid(float x) {
  const float small = expf(-fabsf(x));
  return (x >= 0 ? 1.0f : small) / (1 + small);
}

// What turns sanitised logits into scores: the largest, and under softmax the sum of exponentials.
struct RouteScale {
  float top, sum;
};

SMOE_DEVICE float route_score(ScoreFn score, RouteScale scale, float logit) {
  if (score == ScoreFn::Softmax) return expf(logit - scale.top) / scale.sum;
  return score == ScoreFn::Sigmoid ? route_sigmoid(logit) : logit;
}

// Keys as integers in the same order, 0 for none: an expert that is masked, taken or past the end. Zeros of both signs
// are one key.
SMOE_DEVICE uint32_t route_order(float key) {
  const uint32_t bits = bit_cast<uint32_t>(key + 0.0f);
  if (!(key > -INFINITY)) return 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// Keys outside the groups kept become the fill value; the same for all lanes of a group. Every group has as many lanes
// as there is room for, a power of two.
SMOE_DEVICE void route_keep_groups(const RouterConfig& config, float* key) {
  const int size = static_cast<int>(config.experts) / config.groups;
  int shares = 1;
  while (2 * shares * config.groups <= 32) shares *= 2;
  const int group = lane() / shares, share = lane() % shares;
  const bool real = group < config.groups;
  float best = -INFINITY, second = -INFINITY;
  for (int e = share; e < size && real; e += shares) {
    const float k = lds(key + group * size + e);
    second = fmaxf(second, fminf(best, k));
    best = fmaxf(best, k);
  }
  for (int bits = 1; bits < shares; bits *= 2) {
    const float other = shfl_xor(best, bits), other_second = shfl_xor(second, bits);
    second = fmaxf(fminf(best, other), fmaxf(second, other_second));
    best = fmaxf(best, other);
  }
  // A group with one expert left comes after those with two, but can be kept.
  if (config.group_reduce == GroupReduce::Sum2 && best > -INFINITY) best += second > -INFINITY ? second : -FLT_MAX;
  int before = 0;  // groups that come first: larger, or as large with a smaller number
  for (int other = 0; other < config.groups; ++other) {
    const float theirs = shfl(best, other * shares);
    before += theirs > best || (theirs == best && other < group) ? 1 : 0;
  }
  const float fill = config.group_fill == GroupFill::Zero ? 0.0f : -INFINITY;
  const bool kept = before < config.groups_kept && best > -INFINITY;
  sync_warp();
  for (int e = share; e < size && real && !kept; e += shares) {
    float* const k = key + group * size + e;
    if (lds(k) > -INFINITY) sts(k, fill);
  }
  sync_warp();
}

// The norm of the weights of `count` slots, slot j with lane j, summed in slot order; the same in all lanes.
SMOE_DEVICE double route_norm(float weight, int count, float p) {
  double sum = 0;
  if (p == 1.0f) {
    SMOE_UNROLL4
    for (int j = 0; j < count; ++j) sum += static_cast<double>(shfl(weight, j));
    return sum;
  }
  const double largest = warp_max(lane() < count ? fabsf(weight) : 0.0f);
  if (largest == 0) return 0;
  const double power = shfl(p, 0);  // the same, but nothing that a compiler divides by ahead of the branch
  SMOE_UNROLL1
  for (int j = 0; j < count; ++j) sum += pow(fabs(static_cast<double>(shfl(weight, j))) / largest, power);
  return largest * pow(sum, 1.0 / power);
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

// The best key of this lane: the first of equal ones.
struct RouteBest {
  uint32_t order, slot;
};
template <int R>
SMOE_DEVICE RouteBest route_best(const uint32_t (&order)[R]) {
  RouteBest best{0, 0};
  SMOE_UNROLL
  for (int r = 0; r < R; ++r) {
    if (order[r] > best.order) best = {order[r], static_cast<uint32_t>(r)};
  }
  return best;
}

struct RouteChoice {
  int id, count;  // id: of slot lane(), or -1
};

// The k largest keys, descending, and of equal keys the smaller id first. order[r] is expert 32 r + lane.
template <int R>
SMOE_DEVICE RouteChoice route_choose(uint32_t (&order)[R], int k) {
  RouteChoice choice{-1, 0};
  RouteBest best = route_best<R>(order);
  while (choice.count < k) {
    const uint32_t highest = warp_max_of(best.order);
    if (highest == 0) break;
    const uint32_t mine = best.slot * 32 + static_cast<uint32_t>(lane());
    const uint32_t id = warp_min_of(best.order == highest ? mine : ~0u);
    if (lane() == choice.count) choice.id = static_cast<int>(id);
    ++choice.count;
    if (id == mine && best.order == highest) {
      SMOE_UNROLL
      for (int r = 0; r < R; ++r) order[r] = static_cast<uint32_t>(r) == best.slot ? 0 : order[r];
      best = route_best<R>(order);
    }
  }
  return choice;
}

// Slot lane() of a token.
struct RouteSlot {
  int id;  // -1: unused
  float weight;
  int count;  // of the token
};

// The experts of one token by one warp, and what they are weighed by; E <= 32 R. logits: sanitised, E floats of shared
// memory; key: as many, of this warp alone, used with groups.
template <int R>
SMOE_DEVICE RouteSlot route_pick(const RouterConfig& config, const float* bias, const float* logits, float* key) {
  const int experts = static_cast<int>(config.experts);
  float value[R];
  RouteScale scale{-INFINITY, 0};
  SMOE_UNROLL
  for (int r = 0; r < R; ++r) {
    const int e = 32 * r + lane();
    value[r] = e < experts ? lds(logits + e) : -INFINITY;
    scale.top = fmaxf(scale.top, value[r]);
  }
  scale.top = warp_max(scale.top);
  RouteSlot slot{-1, 0, 0};
  if (scale.top > -INFINITY) {
    // Masked experts score 0 under softmax, and stay masked.
    if (config.score == ScoreFn::Softmax) {
      SMOE_UNROLL
      for (int r = 0; r < R; ++r) {
        if (value[r] > -INFINITY) scale.sum += value[r] = expf(value[r] - scale.top);
      }
      scale.sum = warp_add(scale.sum);
    }
    uint32_t order[R];
    SMOE_UNROLL
    for (int r = 0; r < R; ++r) {
      order[r] = 0;
      if (32 * r >= experts) continue;
      const int e = 32 * r + lane();
      float k = value[r];
      if (k > -INFINITY) {
        if (config.score == ScoreFn::Softmax) k /= scale.sum;
        if (config.score == ScoreFn::Sigmoid) k = route_sigmoid(k);
        k = route_sanitised(config.has_bias ? k + ldg(bias + e) : k);
      }
      order[r] = route_order(k);
      if (config.select == SelectKind::GroupTopK && e < experts) sts(key + e, k);
    }
    if (config.select == SelectKind::GroupTopK && config.groups_kept < config.groups) {
      sync_warp();
      route_keep_groups(config, key);
      SMOE_UNROLL
      for (int r = 0; r < R; ++r) {
        const int e = 32 * r + lane();
        order[r] = e < experts ? route_order(lds(key + e)) : 0;
      }
    }
    const RouteChoice choice = route_choose<R>(order, config.k);
    slot.id = choice.id;
    slot.count = choice.count;
    if (slot.id >= 0) {
      const float logit = lds(logits + slot.id);
      slot.weight = config.source == WeighSource::Logit ? logit : route_score(config.score, scale, logit);
    }
  }
  return slot;
}

// Weighs and stores. ids, weights: this token's row of slots.
SMOE_DEVICE void route_store(const RouterConfig& config, RouteSlot& slot, int32_t* ids, float* weights,
                             int32_t* count) {
  if (slot.count > 0) slot.weight = route_weigh(config, slot.weight, slot.count);
  if (slot.id < 0) slot.weight = 0;
  if (lane() < config.k) {
    stg(ids + lane(), slot.id);
    stg(weights + lane(), slot.weight);
  }
  if (lane() == 0) stg(count, slot.count);
}

}  // namespace smoe::cu
