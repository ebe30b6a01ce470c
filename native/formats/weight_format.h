// The formats that weights are kept in. A header of its own because kernels, which include no STL, are selected by it.
#pragma once

namespace smoe {

enum class WeightFormat : int { F32 = 0, BF16 = 1, W8, W4, W4C, W3, W2, W1, WN, T2, T5, F8 };
constexpr int kWeightFormats = 12;

// Element of a scale or zero plane.
enum class PlaneType : int { F16 = 0, Bf16 = 1, F32 = 2 };

}  // namespace smoe
