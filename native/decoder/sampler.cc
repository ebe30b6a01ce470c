#include "decoder/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace smoe {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection that mixes every bit into every other.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

int32_t argmax(const float* logits, int64_t vocab) {
  float best = kNegInf;
  int64_t at = -1;
  for (int64_t id = 0; id < vocab; ++id) {
    if (logits[id] > best) {  // false for NaN
      best = logits[id];
      at = id;
    }
  }
  return static_cast<int32_t>(at);
}

double uniform_at(uint32_t seed, uint64_t position) {
  // The odd constant (2^64 / golden ratio) spreads seeds; mixing it first keeps (seed, position) and (seed + 1,
  // position - 1) apart. 53 bits fill a double's mantissa.
  const uint64_t key = mix((uint64_t{seed} + 1) * 0x9e3779b97f4a7c15u);
  return static_cast<double>(mix(key + position * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

bool Sampler::ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void Sampler::keep_top_k(int k) {
  if (k <= 0 || static_cast<size_t>(k) >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(), ranks_before);
  candidates_.resize(static_cast<size_t>(k));
  // After a partial selection the order is the library's choice; ids make it ours.
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// Weights relative to the likeliest candidate, in double: a long tail of small ones must add up.
double Sampler::total_weight(float temperature, float top) {
  weights_.resize(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    weights_[i] = std::exp((static_cast<double>(candidates_[i].logit) - top) / temperature);
    total += weights_[i];
  }
  return total;
}

// Sorts only as far as the kept set reaches, which is usually a few dozen of many thousand. Returns the kept weight.
double Sampler::keep_top_p(float top_p, float temperature, float top) {
  const double wanted = total_weight(temperature, top) * top_p;
  double kept = 0;
  size_t sorted = 0;
  for (size_t count = 0; count < candidates_.size();) {
    if (count == sorted) {
      const size_t more = std::min(candidates_.size(), std::max<size_t>(64, 4 * sorted));
      std::partial_sort(candidates_.begin() + static_cast<std::ptrdiff_t>(sorted),
                        candidates_.begin() + static_cast<std::ptrdiff_t>(more), candidates_.end(), ranks_before);
      sorted = more;
    }
    weights_[count] = std::exp((static_cast<double>(candidates_[count].logit) - top) / temperature);
    kept += weights_[count++];
    if (kept >= wanted) candidates_.resize(count);
  }
  return kept;
}

int32_t Sampler::sample(const float* logits, int64_t vocab, const Sampling& sampling, int64_t position) {
  const int32_t best = argmax(logits, vocab);
  if (best < 0 || !(sampling.temperature > 0)) return best;
  candidates_.clear();
  for (int64_t id = 0; id < vocab; ++id) {
    if (logits[id] > kNegInf)
      candidates_.push_back({std::min(logits[id], std::numeric_limits<float>::max()), static_cast<int32_t>(id)});
  }
  const float top = std::min(logits[best], std::numeric_limits<float>::max());
  keep_top_k(sampling.top_k);
  const double total = sampling.top_p < 1 ? keep_top_p(sampling.top_p, sampling.temperature, top)
                                          : total_weight(sampling.temperature, top);
  double left = uniform_at(sampling.seed, static_cast<uint64_t>(position)) * total;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].id;
  }
  return candidates_.back().id;  // rounding of the sum
}

}  // namespace smoe
