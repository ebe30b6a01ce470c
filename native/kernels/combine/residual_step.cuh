// The residual step of one element (ResidualStep in kernel_table.h; specs/cuda-kernels.md 2.10). The CPU twin is
// combine-inl.h: what a kind does not use is not read.
#pragma once

#include "cuda/cu.h"
#include "kernels/kernel_table.h"

namespace smoe::cu {

SMOE_DEVICE float linear_state(const ResidualStep& step, float* m, int64_t i, float y) {
  float next = step.b * y;
  if (!step.first) next = fma(step.a, ldg(m + i), next);
  stg(m + i, next);
  return next;
}

SMOE_DEVICE float complex_state(const ResidualStep& step, const ResidualState& state, int64_t i, float y) {
  float real = step.b * y, imaginary = 0;
  if (!step.first) {
    const float r = ldg(state.m + i), q = ldg(state.m_im + i);
    real = fma(step.a, r, fma(-step.a_im, q, real));
    imaginary = fma(step.a_im, r, step.a * q);
  }
  stg(state.m + i, real);
  stg(state.m_im + i, imaginary);
  return real;
}

SMOE_DEVICE float adam_update(const ResidualStep& step, const ResidualState& state, int64_t i, float y) {
  float p = step.rest1 * y, v = step.rest2 * (y * y);
  if (!step.first_adam) {
    p = fma(step.beta1, ldg(state.p + i), p);
    v = fma(step.beta2, ldg(state.v + i), v);
  }
  if (state.p != nullptr) stg(state.p + i, p);
  if (state.v != nullptr) stg(state.v + i, v);
  return step.gamma1 * (p / sqrtf(v + step.eps));
}

// y: the layer's update; state and residual: base pointers of [T, H]; i: the element. The residual is asked for before
// the state, whose store no later load may pass.
SMOE_DEVICE float residual_step(const ResidualStep& step, const ResidualState& state, const float* residual, int64_t i,
                                float y) {
  switch (step.kind) {
    case ResidualKind::Update:
      break;
    case ResidualKind::Add:
      return ldg(residual + i) + y;
    case ResidualKind::Linear: {
      const float x = ldg(residual + i);
      return fma(step.s, linear_state(step, state.m, i, y), x);
    }
    case ResidualKind::Complex: {
      const float x = ldg(residual + i);
      return fma(step.s, complex_state(step, state, i, y), x);
    }
    case ResidualKind::Adam: {
      const float x = step.kappa == 1.0f ? 0.0f : ldg(residual + i);
      if (state.m != nullptr) linear_state(step, state.m, i, y);
      const float update = step.s * adam_update(step, state, i, y);
      return step.kappa == 1.0f ? update : fma(1.0f - step.kappa, x, update);
    }
  }
  return y;
}

}  // namespace smoe::cu
