// Combine and the residual step of one token, in one pass over memory; included after one of the vec_*.h headers.
#pragma once

#include "kernels/isa/lanes-inl.h"

namespace {

template <bool kTail>
inline V k_linear_state(const smoe::ResidualStep& step, float* m, int64_t i, int n, V y) {
  V next = v_mul(v_set(step.b), y);
  if (!step.first) next = v_fma(v_set(step.a), v_load_part<kTail>(m + i, n), next);
  v_store_part<kTail>(m + i, next, n);
  return next;
}

template <bool kTail>
inline V k_complex_state(const smoe::ResidualStep& step, const smoe::ResidualState& state, int64_t i, int n, V y) {
  V real = v_mul(v_set(step.b), y), imaginary = v_zero();
  if (!step.first) {
    const V r = v_load_part<kTail>(state.m + i, n), q = v_load_part<kTail>(state.m_im + i, n);
    real = v_fma(v_set(step.a), r, v_fma(v_set(-step.a_im), q, real));
    imaginary = v_fma(v_set(step.a_im), r, v_mul(v_set(step.a), q));
  }
  v_store_part<kTail>(state.m + i, real, n);
  v_store_part<kTail>(state.m_im + i, imaginary, n);
  return real;
}

// gamma1 * p' / sqrt(v' + eps), without the sign.
template <bool kTail>
inline V k_adam_update(const smoe::ResidualStep& step, const smoe::ResidualState& state, int64_t i, int n, V y) {
  V p = v_mul(v_set(step.rest1), y), v = v_mul(v_set(step.rest2), v_mul(y, y));
  if (!step.first_adam) {
    p = v_fma(v_set(step.beta1), v_load_part<kTail>(state.p + i, n), p);
    v = v_fma(v_set(step.beta2), v_load_part<kTail>(state.v + i, n), v);
  }
  if (state.p != nullptr) v_store_part<kTail>(state.p + i, p, n);
  if (state.v != nullptr) v_store_part<kTail>(state.v + i, v, n);
  return v_mul(v_set(step.gamma1), v_div(p, v_sqrt(v_add(v, v_set(step.eps)))));
}

// The step on n lanes at i. What a kind does not use is not read: no residual under Update and under Adam with
// kappa = 1, where it cancels (h - (h + u) would lose the low bits of u), and no state in the first layer.
template <bool kTail>
inline V k_residual_step(const smoe::ResidualStep& step, const smoe::ResidualState* state, const float* residual,
                         int64_t i, int n, V y) {
  switch (step.kind) {
    case smoe::ResidualKind::Update:
      break;
    case smoe::ResidualKind::Add:
      return v_add(v_load_part<kTail>(residual + i, n), y);
    case smoe::ResidualKind::Linear:
      return v_fma(v_set(step.s), k_linear_state<kTail>(step, state->m, i, n, y), v_load_part<kTail>(residual + i, n));
    case smoe::ResidualKind::Complex:
      return v_fma(v_set(step.s), k_complex_state<kTail>(step, *state, i, n, y), v_load_part<kTail>(residual + i, n));
    case smoe::ResidualKind::Adam: {
      if (state->m != nullptr) k_linear_state<kTail>(step, state->m, i, n, y);
      const V update = v_mul(v_set(step.s), k_adam_update<kTail>(step, *state, i, n, y));
      return step.kappa == 1.0f ? update : v_fma(v_set(1.0f - step.kappa), v_load_part<kTail>(residual + i, n), update);
    }
  }
  return y;
}

struct CombineInput {
  const float* const* rows;
  const float* weight;
  int slots;
  const float* shared;  // or null
  float shared_scale;
};

template <bool kTail>
inline V k_weighted_sum(const CombineInput& in, int64_t i, int n) {
  V y = v_zero();
  for (int j = 0; j < in.slots; ++j) {
    if (in.rows[j] != nullptr) y = v_fma(v_set(in.weight[j]), v_load_part<kTail>(in.rows[j] + i, n), y);
  }
  if (in.shared != nullptr) y = v_fma(v_set(in.shared_scale), v_load_part<kTail>(in.shared + i, n), y);
  return y;
}

void k_combine(const float* const* rows, const float* weight, int slots, const float* shared, float shared_scale,
               const float* residual, const smoe::ResidualStep* step, const smoe::ResidualState* state, int64_t h,
               float* out, float* update_out) {
  const CombineInput in = {rows, weight, slots, shared, shared_scale};
  int64_t i = 0;
  for (; i + 16 <= h; i += 16) {
    const V y = k_weighted_sum<false>(in, i, 16);
    if (update_out != nullptr) v_store(update_out + i, y);
    v_store(out + i, k_residual_step<false>(*step, state, residual, i, 16, y));
  }
  if (i < h) {
    const int n = static_cast<int>(h - i);
    const V y = k_weighted_sum<true>(in, i, n);
    if (update_out != nullptr) v_store_n(update_out + i, y, n);
    v_store_n(out + i, k_residual_step<true>(*step, state, residual, i, n, y), n);
  }
}

void k_axpy(float c, const float* m, int64_t h, float* u) {
  const V factor = v_set(c);
  int64_t i = 0;
  for (; i + 16 <= h; i += 16) v_store(u + i, v_fma(factor, v_load(m + i), v_load(u + i)));
  const int n = static_cast<int>(h - i);
  if (n > 0) v_store_n(u + i, v_fma(factor, v_load_n(m + i, n), v_load_n(u + i, n)), n);
}

}  // namespace
