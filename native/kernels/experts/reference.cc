#include "kernels/experts/reference.h"

#include <cmath>

namespace smoe::reference {

void linear(const float* w, int64_t rows, int64_t cols, const float* x, int64_t m, double* y, double* magnitude) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0, absolute = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const double product = static_cast<double>(w[n * cols + k]) * x[r * cols + k];
        sum += product;
        absolute += std::fabs(product);
      }
      y[r * rows + n] = sum;
      if (magnitude != nullptr) magnitude[r * rows + n] = absolute;
    }
  }
}

double activate(Activation act, double x) {
  switch (act) {
    case Activation::Silu:
      return x / (1 + std::exp(-x));
    case Activation::GeluTanh:
      // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
      return x / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::GeluErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::Relu:
      return x < 0 ? 0 : x;
    case Activation::Relu2:
      return x < 0 ? 0 : x * x;
    case Activation::Identity:
      break;
  }
  return x;
}

double glu(const ActivationSpec& act, double gate, double up) {
  gate = std::fmin(gate, act.limit);
  up = std::fmax(-act.limit, std::fmin(up, act.limit));
  const double activated = act.alpha == 1 ? activate(act.kind, gate) : gate / (1 + std::exp(-act.alpha * gate));
  return activated * (up + act.beta);
}

}  // namespace smoe::reference
