#include "kernels/route/steps.h"

namespace smoe {
namespace {

// ||w||_p; for p = 1 the plain sum, which is what every model divides by (they agree unless weights are negative).
// Other p relative to the largest weight, so that powers neither overflow nor vanish together.
double norm(const float* w, int n, float p) {
  double sum = 0;
  if (p == 1.0f) {
    for (int i = 0; i < n; ++i) sum += w[i];
    return sum;
  }
  double largest = 0;
  for (int i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(static_cast<double>(w[i])));
  if (largest == 0) return 0;
  for (int i = 0; i < n; ++i) sum += std::pow(std::fabs(w[i]) / largest, p);
  return largest * std::pow(sum, 1.0 / p);
}

double guarded(double denominator, NormEps rule, float eps) {
  switch (rule) {
    case NormEps::None:
      break;
    case NormEps::Add:
      return denominator + eps;
    case NormEps::ClampMin:
      return denominator > eps ? denominator : eps;
    case NormEps::ZeroSafe:
      return denominator > 0 ? denominator : 1;
  }
  return denominator;
}

}  // namespace

void weigh_experts(RouteContext& context) {
  const RouterConfig& config = context.config;
  float* const w = context.weights;
  const int n = context.count;
  for (int i = 0; i < n; ++i) {
    const int32_t e = context.ids[i];
    w[i] = config.source == WeighSource::Logit ? sanitised(context.logits[e]) : context.score[e];
  }
  if (n > 0 && config.post == WeighPost::Softmax) context.kernels.softmax(w, n, w);
  if (n > 0 && config.post == WeighPost::Sigmoid) context.kernels.sigmoid(w, n, w);

  // A denominator of 0 is left when all selected scores underflowed, or cancelled. The quotient has no value then;
  // weights of 0 (this layer adds nothing for the token) keep NaN out of the residual stream.
  double factor = config.scale;
  double denominator = 1;
  if (config.norm_p > 0) denominator = guarded(norm(w, n, config.norm_p), config.norm_eps, config.eps);
  if (denominator == 0) factor = 0, denominator = 1;
  for (int i = 0; i < n; ++i) {
    const double weight = w[i] / denominator * factor;
    w[i] = static_cast<float>(std::fmax(-FLT_MAX, std::fmin(FLT_MAX, weight)));
  }
  for (int i = n; i < config.k; ++i) {
    context.ids[i] = -1;
    w[i] = 0;
  }
}

}  // namespace smoe
