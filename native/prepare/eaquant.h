// EAQuant (specs/quantization.md 2.6): smoothing scales that all experts of a layer share, router clipping that keeps
// the choice of experts, and how long to feed calibration text. And AWQ's scale search (2.5), whose scales are folded
// in the same way.
#pragma once

#include <cstdint>
#include <vector>

#include "prepare/grid.h"
#include "prepare/symmetric.h"

namespace smoe {

// max(input_max^a / weight_max^(1 - a), 1e-5) per input channel of one matrix.
std::vector<double> smoothing_scales(const std::vector<double>& input_max, const std::vector<double>& weight_max,
                                     double a = 0.6);
// The largest per channel over the experts, the router and a shared expert: one norm feeds them all. Fold: norm weight
// /= s, every column j of those matrices *= s[j].
std::vector<double> merge_smoothing(const std::vector<std::vector<double>>& scales);

struct RouterClip {
  double ratio = 1;  // of each row's range
  double kl = 0;     // at it, and without clipping
  double kl_plain = 0;
};
// The clip ratio in [0.35, 1], on a grid of 101, under which an 8-bit router (one asymmetric scale per row) stays
// closest to the exact one: least mean KL(softmax(exact) || softmax(quantized)) over the exact top m experts, m = k +
// floor(r (n - k)). weight [experts, hidden], inputs [tokens, hidden].
RouterClip align_router(const float* weight, int64_t experts, int64_t hidden, const float* inputs, int64_t tokens,
                        int k, double r = 0);

// Tokens that each expert should have seen before calibration ends: ratio (k / experts) tokens. balanced() is true once
// all have.
int64_t balance_target(int64_t tokens, int k, int64_t experts, double ratio = 2);
bool balanced(const std::vector<int64_t>& counts, int64_t target);

struct AwqScales {
  std::vector<float> scale;  // [K], multiplies the columns; its inverse belongs into what produces the inputs
  double power = 0;          // r that was chosen; 0 with all scales 1 when nothing was better
  double loss = 0;           // tr(E H E^T) at it, and with scales of 1
  double loss_plain = 0;
};
// For each r in {0, 0.05, ..., 0.95}: t = mean|x|^r / mean|w / group max|^(1 - r), its geometric range centred on 1;
// the r under which rounding W diag(t) loses least after 1/t. mean |x| is taken as sqrt(mean x^2), which the Hessian
// holds. Never worse than t = 1.
AwqScales awq_scales(const Grid& grid, const float* w, int64_t rows, int64_t cols, int64_t group,
                     const OuterSum& hessian);

}  // namespace smoe
