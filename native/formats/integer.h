// What the formats of plain integer codes have in common.
#pragma once

namespace smoe::integer_format {

template <int Zero>
float value(int code, int) {
  return static_cast<float>(code - Zero);
}

// Half a step, and what the rounding of the scale to f16 and the f32 arithmetic add.
inline double bound(double, double scale, bool) { return (scale < 0 ? -scale : scale) * (0.5 + 0x1p-9); }

}  // namespace smoe::integer_format
