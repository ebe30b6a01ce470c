#include "kernels/norm/reference.h"

#include <cmath>

namespace smoe::reference {

std::vector<double> rms_norm(const float* x, const float* weight, double eps, int64_t h) {
  double squares = 0;
  for (int64_t i = 0; i < h; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double root = std::sqrt(squares / static_cast<double>(h) + eps);
  std::vector<double> out;
  for (int64_t i = 0; i < h; ++i) {
    const double y = root == 0 ? 0 : x[i] / root;
    out.push_back(weight != nullptr ? y * weight[i] : y);
  }
  return out;
}

std::vector<double> layer_norm(const float* x, const float* weight, const float* bias, double eps, int64_t h) {
  const double count = static_cast<double>(h);
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < h; ++i) mean += x[i] / count;
  for (int64_t i = 0; i < h; ++i) variance += (x[i] - mean) * (x[i] - mean) / count;
  const double root = std::sqrt(variance + eps);
  std::vector<double> out;
  for (int64_t i = 0; i < h; ++i) {
    const double y = (root == 0 ? 0 : (x[i] - mean) / root) * (weight != nullptr ? weight[i] : 1);
    out.push_back(bias != nullptr ? y + bias[i] : y);
  }
  return out;
}

std::vector<double> rotate(const float* head, const float* cos, const float* sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  std::vector<double> out(static_cast<size_t>(rotary_dim));
  for (int64_t i = 0; i < half; ++i) {
    const double a = head[i], b = head[i + half];
    out[i] = a * cos[i] - b * sin[i];
    out[i + half] = b * cos[i] + a * sin[i];
  }
  return out;
}

}  // namespace smoe::reference
