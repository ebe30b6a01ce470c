// The recurrences of specs/momentum.md section 3 for one element, in double precision and written per variant, not
// through the general step that the implementation uses.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>

#include "layer/momentum.h"

namespace smoe_test {

struct MomentumElement {
  double m = 0, p = 0, v = 0;
  std::complex<double> z = 0;
  // Sums of absolute values along the recurrence: what the roundings of each layer are relative to.
  double m_size = 0, p_size = 0, x_size = 0;

  // x after MoE layer `layer` with MoE output y.
  double step(const smoe::MomentumSpec& spec, int layer, double x, double y) {
    using smoe::MomentumType;
    const double mu = spec.mu_layers.empty() ? spec.mu : spec.mu_layers[layer];
    const double gamma = spec.gamma_layers.empty() ? spec.gamma : spec.gamma_layers[layer];
    const double size = std::fabs(y);
    x_size = std::max(x_size, std::fabs(x));
    switch (spec.type) {
      case MomentumType::None:
        x_size += size;
        return x + y;
      case MomentumType::HeavyBall:
        heavy_ball(mu, gamma, y);
        x_size += m_size;
        return x + spec.sign * m;
      case MomentumType::Complex: {
        const std::complex<double> beta(spec.beta1, spec.beta2);
        z = beta * z + gamma * y;
        m_size = (std::fabs(spec.beta1) + std::fabs(spec.beta2)) * m_size + std::fabs(gamma) * size;
        x_size += m_size;
        return x + spec.sign * z.real();
      }
      case MomentumType::Robust: {
        const double alpha = gamma * mu * mu * mu / (gamma - 1), beta = gamma * (1 - mu) * (1 - mu) * (1 + mu) / spec.L;
        heavy_ball(alpha, spec.sign, y);
        x_size += beta * m_size;
        return x + beta * m;
      }
      case MomentumType::Nesterov:
        heavy_ball(mu, spec.sign, y);
        x_size += std::fabs(gamma) * m_size;
        return x + gamma * m;
      case MomentumType::Adam:
        break;
    }
    heavy_ball(mu, gamma, y);
    if (std::find(spec.adam_layers.begin(), spec.adam_layers.end(), layer) == spec.adam_layers.end()) {
      x_size += m_size;
      return x + spec.sign * m;
    }
    p = spec.beta1 * p + (1 - spec.beta1) * y;
    v = spec.beta2 * v + (1 - spec.beta2) * y * y;
    p_size = spec.beta1 * p_size + (1 - spec.beta1) * size;
    const double root = std::sqrt(v + spec.eps);
    x_size += spec.gamma1 * p_size / root;
    return (1 - spec.kappa) * x + spec.sign * spec.gamma1 * p / root;
  }

 private:
  void heavy_ball(double a, double b, double y) {
    m = a * m + b * y;
    m_size = std::fabs(a) * m_size + std::fabs(b * y);
  }
};

}  // namespace smoe_test
