// Scales per input channel that make weights easier to quantize: W diag(s) instead of W, and 1/s in what produces the
// inputs. EAQuant's, from ranges (specs/quantization.md 2.6), and AWQ's, by search (2.5). One norm feeds all experts of
// a layer, its router and its shared expert, so a layer has one vector s for them all.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "prepare/grid.h"
#include "prepare/symmetric.h"

namespace smoe {

// max(input_max^a / weight_max^(1 - a), 1e-5) per input channel of one matrix, or of several with the same inputs whose
// largest weights are given.
std::vector<double> smoothing_scales(const std::vector<double>& input_max, const std::vector<double>& weight_max,
                                     double a = 0.6);
// The largest per channel over the experts, the router and a shared expert.
std::vector<double> merge_smoothing(const std::vector<std::vector<double>>& scales);

// Powers of two nearest to the scales (in their logarithm) once their geometric range is centred on 1. Folding these
// changes exponents alone: norm, router and shared expert keep their dtype, and the model its very bits. Channels that
// are never active, or weigh nothing, keep 1: their scales are those of a floor.
std::vector<float> power_of_two_scales(const std::vector<double>& scales, const std::vector<double>& input_max);

// A matrix that AWQ's scales are to suit, and the moments of its inputs.
struct AwqMatrix {
  const float* w = nullptr;  // [rows, K]
  int64_t rows = 0;
  const OuterSum* hessian = nullptr;  // of at least one row; not normalised, so that frequent experts count for more
};
struct AwqScales {
  std::vector<float> scale;  // [K] powers of two, multiplies the columns
  double power = 0;          // r that was chosen; 0 with all scales 1 when nothing was better
  double loss = 0;           // sum of tr(E H E^T) at it, and with scales of 1
  double loss_plain = 0;
};
// For each r in {0, 0.05, ..., 0.95}: t = mean|x|^r / mean|w / group max|^(1 - r) as powers of two; the r under which
// rounding W diag(t) loses least after 1/t. mean |x| is taken as sqrt(mean x^2), which the Hessians hold. Never worse
// than t = 1 on the rows looked at (every n-th of large matrices), under the parameters that will be used: those of
// search_params() with `search`, else of rtn_params(). The sum does not depend on the number of threads.
Status awq_scales(const Grid& grid, const std::vector<AwqMatrix>& matrices, int64_t cols, int64_t group, bool search,
                  ThreadPool& pool, const CancelFlag* cancel, AwqScales* out);

// S with x replaced by x / scale.
Status scale_inputs(const OuterSum& sum, const float* scale, OuterSum* out);

}  // namespace smoe
