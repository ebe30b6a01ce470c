// Combine and the residual step of one element in double precision. Used by tests only.
#pragma once

#include "kernels/kernel_table.h"

namespace smoe::reference {

struct ElementState {
  double m = 0, m_im = 0, p = 0, v = 0;
};

// sum of weight * row + shared_scale * shared at element i; magnitude (nullable) receives the sum of absolute values.
double combine(const float* const* rows, const float* weight, int slots, const float* shared, float shared_scale,
               int64_t i, double* magnitude);

// Applies `step` to residual x and MoE output y; the state is updated and, where step says so, not read.
double residual(const ResidualStep& step, double x, double y, ElementState* state);

}  // namespace smoe::reference
