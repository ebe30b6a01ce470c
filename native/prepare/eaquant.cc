#include "prepare/eaquant.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace smoe {

std::vector<double> smoothing_scales(const std::vector<double>& input_max, const std::vector<double>& weight_max,
                                     double a) {
  std::vector<double> scales(input_max.size());
  for (size_t j = 0; j < scales.size(); ++j) {
    const double scale = std::pow(input_max[j], a) / std::pow(weight_max[j], 1 - a);
    // A channel whose weights are all zero gives infinity: it needs no smoothing.
    scales[j] = std::isfinite(scale) ? std::max(scale, 1e-5) : 1;
  }
  return scales;
}

std::vector<double> merge_smoothing(const std::vector<std::vector<double>>& scales) {
  std::vector<double> merged = scales.front();
  for (const std::vector<double>& other : scales)
    for (size_t j = 0; j < merged.size(); ++j) merged[j] = std::max(merged[j], other[j]);
  return merged;
}

namespace {

// log softmax over the chosen experts.
void log_softmax(const double* logits, const std::vector<size_t>& chosen, std::vector<double>* out) {
  double most = -INFINITY, sum = 0;
  for (size_t e : chosen) most = std::max(most, logits[e]);
  for (size_t e : chosen) sum += std::exp(logits[e] - most);
  out->clear();
  for (size_t e : chosen) out->push_back(logits[e] - most - std::log(sum));
}

std::vector<double> multiply(const float* weight, int64_t experts, int64_t hidden, const float* inputs,
                             int64_t tokens) {
  std::vector<double> logits(static_cast<size_t>(tokens * experts));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (int64_t i = 0; i < hidden; ++i) sum += static_cast<double>(weight[e * hidden + i]) * inputs[t * hidden + i];
      logits[static_cast<size_t>(t * experts + e)] = sum;
    }
  }
  return logits;
}

}  // namespace

RouterClip align_router(const float* weight, int64_t experts, int64_t hidden, const float* inputs, int64_t tokens,
                        int k, double r) {
  Grid grid;
  grid.max_code = 255;
  grid.symmetric = false;
  const std::vector<double> exact = multiply(weight, experts, hidden, inputs, tokens);
  const int64_t m = std::min(experts, k + static_cast<int64_t>(r * static_cast<double>(experts - k)));
  std::vector<std::vector<size_t>> chosen;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<size_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), size_t{0});
    const double* logits = exact.data() + t * experts;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    order.resize(static_cast<size_t>(m));
    chosen.push_back(std::move(order));
  }
  RouterClip best;
  best.kl = INFINITY;
  std::vector<float> quantized(static_cast<size_t>(experts * hidden));
  std::vector<double> p, q;
  for (int step = 0; step <= 100; ++step) {
    const double ratio = 1 - 0.0065 * step;
    for (int64_t e = 0; e < experts; ++e) {
      const float* row = weight + e * hidden;
      const GroupParams params = rtn_params(grid, row, hidden, static_cast<float>(ratio));
      for (int64_t i = 0; i < hidden; ++i)
        quantized[static_cast<size_t>(e * hidden + i)] = decode(params, encode(grid, params, row[i]));
    }
    const std::vector<double> logits = multiply(quantized.data(), experts, hidden, inputs, tokens);
    double kl = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      log_softmax(exact.data() + t * experts, chosen[static_cast<size_t>(t)], &p);
      log_softmax(logits.data() + t * experts, chosen[static_cast<size_t>(t)], &q);
      for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]) / static_cast<double>(tokens);
    }
    if (step == 0) best.kl_plain = kl;
    if (kl < best.kl) {
      best.kl = kl;
      best.ratio = ratio;
    }
  }
  return best;
}

int64_t balance_target(int64_t tokens, int k, int64_t experts, double ratio) {
  return static_cast<int64_t>(std::ceil(ratio * k * static_cast<double>(tokens) / static_cast<double>(experts)));
}

bool balanced(const std::vector<int64_t>& counts, int64_t target) {
  return std::all_of(counts.begin(), counts.end(), [&](int64_t count) { return count >= target; });
}

namespace {

// tr(E H E^T) of E = W - Q(W diag t) diag(1/t).
double scaled_loss(const Grid& grid, const float* w, int64_t rows, int64_t cols, int64_t group,
                   const std::vector<double>& h, const std::vector<float>& t) {
  std::vector<float> scaled(static_cast<size_t>(cols));
  std::vector<double> error(scaled.size());
  double loss = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t k = 0; k < scaled.size(); ++k) scaled[k] = w[row * cols + static_cast<int64_t>(k)] * t[k];
    for (int64_t k = 0; k < cols; k += group) {
      const GroupParams params = rtn_params(grid, scaled.data() + k, group);
      for (int64_t i = k; i < k + group; ++i) {
        const auto at = static_cast<size_t>(i);
        error[at] = static_cast<double>(w[row * cols + i]) - decode(params, encode(grid, params, scaled[at])) / t[at];
      }
    }
    for (size_t i = 0; i < error.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < error.size(); ++j) sum += h[i * error.size() + j] * error[j];
      loss += error[i] * sum;
    }
  }
  return loss;
}

}  // namespace

AwqScales awq_scales(const Grid& grid, const float* w, int64_t rows, int64_t cols, int64_t group,
                     const OuterSum& hessian) {
  const auto n = static_cast<size_t>(cols);
  const double count = std::max<double>(1, static_cast<double>(hessian.count));
  std::vector<double> h(n * n), inputs(n), weights(n, 0);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) h[i * n + j] = hessian.at(static_cast<int64_t>(i), static_cast<int64_t>(j)) / count;
  for (size_t i = 0; i < n; ++i) inputs[i] = std::sqrt(h[i * n + i]);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < cols; k += group) {
      float most = 0;
      for (int64_t i = k; i < k + group; ++i) most = std::max(most, std::fabs(w[row * cols + i]));
      if (most == 0) continue;
      for (int64_t i = k; i < k + group; ++i)
        weights[static_cast<size_t>(i)] += std::fabs(w[row * cols + i]) / most / static_cast<double>(rows);
    }
  }
  AwqScales best;
  best.scale.assign(n, 1.0f);
  best.loss = best.loss_plain = scaled_loss(grid, w, rows, cols, group, h, best.scale);
  for (int step = 0; step < 20; ++step) {
    const double r = 0.05 * step;
    std::vector<double> t(n);
    double least = INFINITY, most = 0;
    for (size_t k = 0; k < n; ++k) {
      t[k] = std::max(std::pow(inputs[k], r) / (std::pow(weights[k], 1 - r) + 1e-4), 1e-4);
      least = std::min(least, t[k]);
      most = std::max(most, t[k]);
    }
    std::vector<float> scale(n);
    for (size_t k = 0; k < n; ++k) scale[k] = static_cast<float>(t[k] / std::sqrt(least * most));
    const double loss = scaled_loss(grid, w, rows, cols, group, h, scale);
    if (!(loss < best.loss)) continue;
    best.loss = loss;
    best.power = r;
    best.scale = std::move(scale);
  }
  return best;
}

}  // namespace smoe
