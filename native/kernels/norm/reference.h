// Norms and rotation in double precision. Used by tests only.
#pragma once

#include <cstdint>
#include <vector>

namespace smoe::reference {

// weight and bias may be null.
std::vector<double> rms_norm(const float* x, const float* weight, double eps, int64_t h);
std::vector<double> layer_norm(const float* x, const float* weight, const float* bias, double eps, int64_t h);
std::vector<double> rotate(const float* head, const float* cos, const float* sin, int64_t rotary_dim);

}  // namespace smoe::reference
