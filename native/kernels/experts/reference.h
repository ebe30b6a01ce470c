// Linear maps and activations in double precision, written as the formulas are. Tests only.
#pragma once

#include <cstdint>

#include "kernels/kernel_table.h"

namespace smoe::reference {

// y[r][n] = sum_k w[n][k] * x[r][k]; magnitude[r][n] (nullable) = sum_k |w[n][k] * x[r][k]|, which rounding errors
// scale with.
void linear(const float* w, int64_t rows, int64_t cols, const float* x, int64_t m, double* y, double* magnitude);

double activate(Activation act, double x);
double glu(const ActivationSpec& act, double gate, double up);

}  // namespace smoe::reference
