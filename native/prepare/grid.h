// The uniform grids of the integer formats, and the parameters that put a group of weights on one.
//
// Every integer format is an affine grid w^ = step * (u - zero) with u in [0, max_code]: ternary with zero 1, and one
// bit as step 2s with zero 1/2, since s(2u - 1) = 2s(u - 1/2). One code path therefore serves them all.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"
#include "core/status.h"
#include "formats/packed_matrix.h"

namespace smoe {

struct Grid {
  int max_code = 15;
  float center = 8;                // zero point of the symmetric form
  bool symmetric = true;           // false: an integer zero point per group
  Dtype scale_dtype = Dtype::F16;  // what the scale is rounded to before any code is chosen
};

// Grid of a format. Refuses formats that are not uniform (w4c, f8) and forms that do not exist (asymmetric ternary).
Status make_grid(WeightFormat format, bool symmetric, Grid* out);

struct GroupParams {
  float step = 1, zero = 0;
};

// Ties to even, as specs/quantization.md 1.2.1 wants them: the zero's whole part is added after the rounding, so that
// an odd zero does not turn ties around. The clamp before the rounding keeps the magic constant exact and NaN out (NaN
// gives code 0).
inline uint8_t encode(const Grid& grid, const GroupParams& p, float w) {
  const float whole = std::floor(p.zero);
  float x = w / p.step + (p.zero - whole);
  x = x < -whole - 1 ? -whole - 1 : x;
  x = x > 1024.0f ? 1024.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  float u = ((x + magic) - magic) + whole;
  u = u > 0 ? u : 0;
  const float top = static_cast<float>(grid.max_code);
  return static_cast<uint8_t>(u < top ? u : top);
}
inline float decode(const GroupParams& p, uint8_t code) { return p.step * (static_cast<float>(code) - p.zero); }

// The step as it will be stored (never zero or infinite) and the zero inside the codes.
GroupParams round_params(const Grid& grid, GroupParams p);

// A power of two that brings n weights near 1 when f16 scales would not reach them; else 1.
float range_shift(const Grid& grid, const float* w, int64_t n);

// Plain rounding (specs/quantization.md 1.2.1): absmax or min-max over the group, shrunk by `shrink`; absmean for
// ternary, mean |w| for one bit. An all-zero group gets step 1.
GroupParams rtn_params(const Grid& grid, const float* w, int64_t n, float shrink = 1);

// sum h (w - w^)^2; h null = 1.
double group_error(const Grid& grid, const GroupParams& p, const float* w, const float* h, int64_t n);

// MSE-optimal parameters (specs/quantization.md 2.2; TWN for ternary): never worse than rtn_params() under the same
// weights h.
GroupParams search_params(const Grid& grid, const float* w, const float* h, int64_t n);

// HQQ (specs/quantization.md 2.3): the scale of rtn_params() and a fractional zero that minimises |e|^0.7. Asymmetric
// grids only.
GroupParams hqq_params(const Grid& grid, const float* w, int64_t n, int iterations = 20);

}  // namespace smoe
