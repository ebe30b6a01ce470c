// The experts' part of a MoE layer in double precision, one assignment at a time. Used by tests only.
#pragma once

#include <vector>

#include "kernels/experts/reference.h"
#include "layer/moe_layer.h"

namespace smoe::reference {

// y [T, H] from hidden [T, H] and given assignments (ids and weights [T, slots], -1 = unused). With `fast` inputs
// and hidden units are rounded to bf16 as Precision::Fast does. magnitude [T, H] (nullable) receives the same sum over
// absolute values, the scale that error bounds are relative to.
std::vector<double> moe(const MoeLayer& layer, const std::vector<float>& hidden, const std::vector<int32_t>& ids,
                        const std::vector<float>& weights, int slots, bool fast, std::vector<double>* magnitude);

}  // namespace smoe::reference
