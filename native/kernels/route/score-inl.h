// Router scores and log-sum-exp of one row; included after one of the vec_*.h headers.
#pragma once

#include <float.h>
#include <math.h>

#include "kernels/isa/lanes-inl.h"

namespace {

// The largest element, -inf for an empty row. NaN elements are passed over only by luck: callers sanitise first.
inline float k_row_max(const float* x, int64_t n) {
  V top = v_set(-INFINITY);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) top = v_max(top, v_load(x + i));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) top = v_max(top, v_first_lanes(rest, v_load_n(x + i, rest), v_set(-INFINITY)));
  return v_max_lane(top);
}

// Elements of -inf get exactly 0; a row of nothing else gets zeros.
void k_softmax(const float* x, int64_t n, float* out) {
  const float top = k_row_max(x, n);
  if (top == -INFINITY) {
    for (int64_t i = 0; i < n; ++i) out[i] = 0.0f;
    return;
  }
  const V maximum = v_set(top);
  V sum = v_zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V e = v_exp_or_zero(v_sub(v_load(x + i), maximum));
    v_store(out + i, e);
    sum = v_add(sum, e);
  }
  const int rest = static_cast<int>(n - i);
  if (rest > 0) {
    const V e = v_first_lanes(rest, v_exp_or_zero(v_sub(v_load_n(x + i, rest), maximum)), v_zero());
    v_store_n(out + i, e, rest);
    sum = v_add(sum, e);
  }
  const V total = v_set(v_sum(sum));
  for (i = 0; i + 16 <= n; i += 16) v_store(out + i, v_div(v_load(out + i), total));
  if (rest > 0) v_store_n(out + i, v_div(v_load_n(out + i, rest), total), rest);
}

void k_sigmoid(const float* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store(out + i, v_sigmoid(v_load(x + i)));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) v_store_n(out + i, v_sigmoid(v_load_n(x + i, rest)), rest);
}

// exp of the shifted logits in f32 (relative error 2e-7), their sum in double: over a vocabulary of 2^17 an f32 sum
// would lose four digits, and the differences of such results are what perplexities are compared by.
double k_log_sum_exp(const float* x, int64_t n) {
  const float top = k_row_max(x, n);
  if (!(top >= -FLT_MAX && top <= FLT_MAX)) return top;
  const V maximum = v_set(top);
  double sum[16] = {};
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    V e = v_exp_or_zero(v_sub(lanes < 16 ? v_load_n(x + i, lanes) : v_load(x + i), maximum));
    if (lanes < 16) e = v_first_lanes(lanes, e, v_zero());
    float terms[16];
    v_store(terms, e);
    for (int j = 0; j < 16; ++j) sum[j] += terms[j];
  }
  for (int width = 8; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) sum[j] += sum[j + width];
  }
  return static_cast<double>(top) + log(sum[0]);
}

}  // namespace
