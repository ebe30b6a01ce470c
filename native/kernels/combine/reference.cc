#include "kernels/combine/reference.h"

#include <cmath>
#include <complex>

namespace smoe::reference {

double combine(const float* const* rows, const float* weight, int slots, const float* shared, float shared_scale,
               int64_t i, double* magnitude) {
  double sum = 0, absolute = 0;
  for (int j = 0; j <= slots; ++j) {
    const float* const row = j < slots ? rows[j] : shared;
    if (row == nullptr) continue;
    const double term = static_cast<double>(j < slots ? weight[j] : shared_scale) * row[i];
    sum += term;
    absolute += std::fabs(term);
  }
  if (magnitude != nullptr) *magnitude = absolute;
  return sum;
}

double residual(const ResidualStep& step, double x, double y, ElementState* state) {
  if (step.first) state->m = state->m_im = 0;
  if (step.first_adam) state->p = state->v = 0;
  switch (step.kind) {
    case ResidualKind::Update:
      return y;
    case ResidualKind::Add:
      return x + y;
    case ResidualKind::Linear:
      state->m = step.a * state->m + step.b * y;
      return x + step.s * state->m;
    case ResidualKind::Complex: {
      const std::complex<double> next =
          std::complex<double>(step.a, step.a_im) * std::complex<double>(state->m, state->m_im) + step.b * y;
      state->m = next.real();
      state->m_im = next.imag();
      return x + step.s * state->m;
    }
    case ResidualKind::Adam:
      state->m = step.a * state->m + step.b * y;
      state->p = step.beta1 * state->p + step.rest1 * y;
      state->v = step.beta2 * state->v + step.rest2 * y * y;
      return (1 - static_cast<double>(step.kappa)) * x +
             static_cast<double>(step.s) * step.gamma1 * state->p / std::sqrt(state->v + step.eps);
  }
  return y;
}

}  // namespace smoe::reference
