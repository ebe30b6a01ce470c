// Both kinds of attention in double precision over a whole sequence. Used by tests only.
#pragma once

#include <vector>

#include "decoder/decoder.h"

namespace smoe::reference {

using Rows = std::vector<std::vector<double>>;  // [T][width]

std::vector<double> linear(const PackedMatrix& weight, const std::vector<float>& bias, const std::vector<double>& x);
// RMS norm of x[at, at + width) in place.
void rms(const std::vector<float>& weight, double eps, size_t at, size_t width, std::vector<double>* x);

// x: the normed inputs of the layer.
Rows attention(const DecoderLayer& layer, const Rows& x);

}  // namespace smoe::reference
