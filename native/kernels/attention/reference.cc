#include "kernels/attention/reference.h"

#include <algorithm>
#include <cmath>

namespace smoe::reference {

Attention attend(const float* q, const float* k, const float* v, int64_t begin, int64_t end, int64_t head_dim,
                 int64_t value_dim, double scale, double sink) {
  Attention result;
  result.out.assign(static_cast<size_t>(value_dim), 0);
  result.magnitude = result.out;
  std::vector<double> scores;
  for (int64_t key = begin; key < end; ++key) {
    double score = 0, magnitude = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      const double product = static_cast<double>(q[d]) * k[key * head_dim + d];
      score += product;
      magnitude += std::fabs(product);
    }
    scores.push_back(score * scale);
    result.largest_score = std::max(result.largest_score, magnitude * scale);
  }
  if (scores.empty()) return result;
  const double top = std::max(sink, *std::max_element(scores.begin(), scores.end()));
  double sum = std::exp(sink - top);
  for (double score : scores) {
    sum += std::exp(score - top);
    result.largest_distance = std::max(result.largest_distance, top - score);
  }
  for (int64_t key = begin; key < end; ++key) {
    const double weight = std::exp(scores[key - begin] - top) / sum;
    for (int64_t d = 0; d < value_dim; ++d) {
      result.out[d] += weight * v[key * value_dim + d];
      result.magnitude[d] += weight * std::fabs(v[key * value_dim + d]);
    }
  }
  return result;
}

}  // namespace smoe::reference
