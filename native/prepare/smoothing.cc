#include "prepare/smoothing.h"

#include <algorithm>
#include <cmath>

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

std::vector<float> power_of_two_scales(const std::vector<double>& scales, const std::vector<double>& input_max) {
  // Beyond 2^12 either way bf16 and f16 weights near the ends of their range would leave it.
  constexpr double kMost = 12;
  double least = INFINITY, most = -INFINITY;
  for (size_t j = 0; j < scales.size(); ++j) {
    if (!(input_max[j] > 0)) continue;
    least = std::min(least, std::log2(scales[j]));
    most = std::max(most, std::log2(scales[j]));
  }
  std::vector<float> out(scales.size(), 1.0f);
  if (!(least <= most)) return out;
  const double middle = (least + most) / 2;
  for (size_t j = 0; j < scales.size(); ++j) {
    if (!(input_max[j] > 0)) continue;
    const double power = std::clamp(std::nearbyint(std::log2(scales[j]) - middle), -kMost, kMost);
    out[j] = std::ldexp(1.0f, static_cast<int>(power));
  }
  return out;
}

Status scale_inputs(const OuterSum& sum, const float* scale, OuterSum* out) {
  SMOE_RETURN_IF_ERROR(out->resize(sum.size));
  out->count = sum.count;
  for (int64_t i = 0, at = 0; i < sum.size; ++i)
    for (int64_t j = 0; j <= i; ++j, ++at)
      out->lower[static_cast<size_t>(at)] =
          sum.lower[static_cast<size_t>(at)] / (static_cast<double>(scale[i]) * scale[j]);
  return Status();
}

namespace {

// Rows of one matrix that are looked at: enough for a choice among twenty. A row costs K^2, or some 35 K more where the
// parameters are searched for.
constexpr int64_t kAwqRows = 64, kAwqSearchRows = 32;

// tr(E H E^T) of E = W - Q(W diag t) diag(1/t), over every n-th row.
double scaled_loss(const Grid& grid, const AwqMatrix& matrix, int64_t cols, int64_t group, bool search,
                   const std::vector<float>& t) {
  std::vector<float> scaled(static_cast<size_t>(cols)), weights(scaled.size());
  for (int64_t k = 0; k < cols; ++k) {
    const auto at = static_cast<size_t>(k);
    weights[at] = static_cast<float>(matrix.hessian->at(k, k) / (static_cast<double>(t[at]) * t[at]));
  }
  std::vector<double> error(scaled.size());
  const int64_t most = search ? kAwqSearchRows : kAwqRows, stride = (matrix.rows + most - 1) / most;
  double loss = 0;
  for (int64_t row = 0; row < matrix.rows; row += stride) {
    const float* w = matrix.w + row * cols;
    for (int64_t k = 0; k < cols; ++k) scaled[static_cast<size_t>(k)] = w[k] * t[static_cast<size_t>(k)];
    for (int64_t k = 0; k < cols; k += group) {
      const GroupParams params = search ? search_params(grid, scaled.data() + k, weights.data() + k, group)
                                        : rtn_params(grid, scaled.data() + k, group);
      for (int64_t i = k; i < k + group; ++i) {
        const auto at = static_cast<size_t>(i);
        error[at] = static_cast<double>(w[i]) - decode(params, encode(grid, params, scaled[at])) / t[at];
      }
    }
    const double* h = matrix.hessian->lower.data();
    for (size_t i = 0; i < error.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < i; ++j) sum += h[j] * error[j];
      loss += error[i] * (2 * sum + h[i] * error[i]);
      h += i + 1;
    }
  }
  return loss;
}

double total_loss(const Grid& grid, const std::vector<AwqMatrix>& matrices, int64_t cols, int64_t group, bool search,
                  ThreadPool& pool, const CancelFlag* cancel, const std::vector<float>& t) {
  std::vector<double> losses(matrices.size());
  pool.parallel_for(static_cast<int64_t>(matrices.size()), [&](int64_t i, int) {
    if (cancelled(cancel)) return;
    losses[static_cast<size_t>(i)] = scaled_loss(grid, matrices[static_cast<size_t>(i)], cols, group, search, t);
  });
  double total = 0;
  for (double loss : losses) total += loss;
  return total;
}

// mean |w / largest of its group| per column over all rows.
std::vector<double> relative_weights(const std::vector<AwqMatrix>& matrices, int64_t cols, int64_t group) {
  std::vector<double> weights(static_cast<size_t>(cols), 0);
  double rows = 0;
  for (const AwqMatrix& matrix : matrices) rows += static_cast<double>(matrix.rows);
  for (const AwqMatrix& matrix : matrices) {
    for (int64_t row = 0; row < matrix.rows; ++row) {
      const float* w = matrix.w + row * cols;
      for (int64_t k = 0; k < cols; k += group) {
        float most = 0;
        for (int64_t i = k; i < k + group; ++i) most = std::max(most, std::fabs(w[i]));
        if (most == 0) continue;
        for (int64_t i = k; i < k + group; ++i) weights[static_cast<size_t>(i)] += std::fabs(w[i]) / most / rows;
      }
    }
  }
  return weights;
}

}  // namespace

Status awq_scales(const Grid& grid, const std::vector<AwqMatrix>& matrices, int64_t cols, int64_t group, bool search,
                  ThreadPool& pool, const CancelFlag* cancel, AwqScales* out) {
  const auto n = static_cast<size_t>(cols);
  if (group <= 0 || cols % group != 0)
    return error(Code::InvalidArgument, "group %lld does not divide the %lld columns", static_cast<long long>(group),
                 static_cast<long long>(cols));
  AwqScales best;
  best.scale.assign(n, 1.0f);
  std::vector<double> inputs(n, 0);
  double tokens = 0;
  for (const AwqMatrix& matrix : matrices) {
    if (matrix.hessian->size != cols)
      return error(Code::ShapeMismatch, "the Hessian has side %lld for %lld columns",
                   static_cast<long long>(matrix.hessian->size), static_cast<long long>(cols));
    tokens += static_cast<double>(matrix.hessian->count);
    for (size_t i = 0; i < n; ++i) inputs[i] += matrix.hessian->at(static_cast<int64_t>(i), static_cast<int64_t>(i));
  }
  if (tokens == 0) {  // nothing was seen: nothing is known to be better than the weights as they are
    *out = std::move(best);
    return Status();
  }
  for (double& input : inputs) input = std::sqrt(input / tokens);
  const std::vector<double> weights = relative_weights(matrices, cols, group);
  best.loss = best.loss_plain = total_loss(grid, matrices, cols, group, search, pool, cancel, best.scale);
  std::vector<double> t(n);
  for (int step = 0; step < 20; ++step) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const double r = 0.05 * step;
    for (size_t k = 0; k < n; ++k) t[k] = std::max(std::pow(inputs[k], r) / (std::pow(weights[k], 1 - r) + 1e-4), 1e-4);
    std::vector<float> scale = power_of_two_scales(t, inputs);
    const double loss = total_loss(grid, matrices, cols, group, search, pool, cancel, scale);
    if (!(loss < best.loss)) continue;
    best.loss = loss;
    best.power = r;
    best.scale = std::move(scale);
  }
  if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
  *out = std::move(best);
  return Status();
}

}  // namespace smoe
