#include "kernels/route/reference.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numeric>

namespace smoe::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double clean(double x) {
  if (std::isnan(x)) return -kInfinity;
  return std::min(x, static_cast<double>(FLT_MAX));
}

std::vector<double> softmax(const std::vector<double>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  std::vector<double> out;
  double sum = 0;
  for (double value : x) sum += std::exp(value - top);
  for (double value : x) out.push_back(std::exp(value - top) / sum);
  return out;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Indices in the total order (value descending, index ascending); margin takes in the gaps down to the first one left
// out.
std::vector<int> best(const std::vector<double>& value, int count, double* margin) {
  std::vector<int> order(value.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return value[a] > value[b]; });
  std::vector<int> out;
  for (int i = 0; i < count && value[order[i]] > -kInfinity; ++i) {
    out.push_back(order[i]);
    if (i + 1 < static_cast<int>(order.size())) *margin = std::min(*margin, value[order[i]] - value[order[i + 1]]);
  }
  return out;
}

void keep_groups(const RouterConfig& config, std::vector<double>* key, double* margin) {
  const int size = static_cast<int>(config.experts) / config.groups;
  std::vector<double> score;
  for (int g = 0; g < config.groups; ++g) {
    std::vector<double> sorted(key->begin() + g * size, key->begin() + (g + 1) * size);
    std::sort(sorted.rbegin(), sorted.rend());
    double second = 0;
    if (config.group_reduce == GroupReduce::Sum2) second = std::max<double>(sorted[1], -FLT_MAX);
    score.push_back(sorted[0] + second);
  }
  const std::vector<int> kept = best(score, config.groups_kept, margin);
  for (int e = 0; e < static_cast<int>(config.experts); ++e) {
    if (std::find(kept.begin(), kept.end(), e / size) != kept.end() || (*key)[e] == -kInfinity) continue;
    (*key)[e] = config.group_fill == GroupFill::Zero ? 0 : -kInfinity;
  }
}

double denominator(const RouterConfig& config, const std::vector<double>& w) {
  double sum = 0;
  for (double value : w) sum += config.norm_p == 1 ? value : std::pow(std::fabs(value), config.norm_p);
  if (config.norm_p != 1) sum = std::pow(sum, 1.0 / config.norm_p);
  switch (config.norm_eps) {
    case NormEps::None:
      return sum;
    case NormEps::Add:
      return sum + config.eps;
    case NormEps::ClampMin:
      return std::max<double>(sum, config.eps);
    case NormEps::ZeroSafe:
      return sum > 0 ? sum : 1;
  }
  return sum;
}

}  // namespace

Route route(const RouterConfig& config, const float* logits, const float* bias) {
  Route result;
  result.margin = kInfinity;
  std::vector<double> clean_logits;
  for (int64_t e = 0; e < config.experts; ++e) clean_logits.push_back(clean(logits[e]));
  if (*std::max_element(clean_logits.begin(), clean_logits.end()) == -kInfinity) return result;

  std::vector<double> score = clean_logits;
  if (config.score == ScoreFn::Softmax) score = softmax(clean_logits);
  if (config.score == ScoreFn::Sigmoid) std::transform(score.begin(), score.end(), score.begin(), sigmoid);

  std::vector<double> key = score;
  for (int64_t e = 0; e < config.experts; ++e) {
    if (config.has_bias && bias != nullptr) key[e] = clean(key[e] + bias[e]);
    if (clean_logits[e] == -kInfinity) key[e] = -kInfinity;
  }
  if (config.select == SelectKind::GroupTopK) keep_groups(config, &key, &result.margin);
  result.ids = best(key, config.k, &result.margin);
  if (result.ids.empty()) return result;

  for (int id : result.ids)
    result.weights.push_back(config.source == WeighSource::Logit ? clean_logits[id] : score[id]);
  if (config.post == WeighPost::Softmax) result.weights = softmax(result.weights);
  if (config.post == WeighPost::Sigmoid) {
    std::transform(result.weights.begin(), result.weights.end(), result.weights.begin(), sigmoid);
  }
  const double divisor = config.norm_p > 0 ? denominator(config, result.weights) : 1;
  for (double& weight : result.weights) weight = divisor == 0 ? 0 : weight / divisor * config.scale;
  return result;
}

}  // namespace smoe::reference
