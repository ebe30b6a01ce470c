#include "formats/f8.h"

#include <algorithm>
#include <cmath>

#include "formats/planes.h"

namespace smoe::f8_format {
namespace {

float value(int code, int) { return decode(static_cast<uint8_t>(code)); }

// Half a unit in the last place of 3 bits, and half a subnormal step.
double bound(double w, double scale, bool) {
  return std::max(std::fabs(w) / 16, std::fabs(scale) * 0x1p-10) * (1 + 1e-6);
}

}  // namespace

float decode(uint8_t code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const float magnitude = (code & 0x7f) == 0x7f ? NAN
                          : exponent == 0       ? std::ldexp(static_cast<float>(fraction), -9)
                                                : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

uint8_t encode(float value) {
  const int sign = std::signbit(value) ? 0x80 : 0;
  const float size = std::min(std::fabs(value), 448.0f);
  if (std::isnan(value)) return 0x7f;
  int exponent = -9;                          // of zero, for which frexp has none
  if (size > 0) std::frexp(size, &exponent);  // size in [2^(exponent-1), 2^exponent)
  const int step = std::max(exponent - 4, -9);
  // nearbyint rounds ties to even under the default rounding mode. 16 steps carry into the next exponent, where the
  // same number is 8 steps.
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -step)));
  return static_cast<uint8_t>(sign | (step == -9 ? steps : (step + 9) * 8 + steps));
}

using Unit = planes::Fields<8>;

const FormatInfo info = {
    WeightFormat::F8,
    "f8",
    "E4M3 floats, 8.25 bits per weight at g = 128",
    Unit::kCols,
    Unit::kBytes,
    255,
    0,
    false,
    false,
    128,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    value,
    bound,
};

}  // namespace smoe::f8_format
