#include "formats/w4c.h"

#include <cmath>

#include "formats/planes.h"

namespace smoe::w4c_format {
namespace {

constexpr float kE2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
constexpr float kNf4[16] = {-1.0f,
                            -0.6961928009986877f,
                            -0.5250730514526367f,
                            -0.39491748809814453f,
                            -0.28444138169288635f,
                            -0.18477343022823334f,
                            -0.09105003625154495f,
                            0.0f,
                            0.07958029955625534f,
                            0.16093020141124725f,
                            0.24611230194568634f,
                            0.33791524171829224f,
                            0.44070982933044434f,
                            0.5626170039176941f,
                            0.7229568362236023f,
                            1.0f};

int nearest(const float* table, int count, float value) {
  int best = 0;
  for (int i = 1; i < count; ++i) {
    const float here = std::fabs(table[i] - value), there = std::fabs(table[best] - value);
    if (here < there || (here == there && i % 2 == 0)) best = i;
  }
  return best;
}

// One step of E2M1 at most: 4 to 6 is a step of 2 scales, and values up to 7 (MXFP4's exponent rule) end at 6.
double bound(double, double scale, bool) { return scale * (1 + 1e-6); }

}  // namespace

float decode(int code, int codebook) {
  if (codebook == 2) return kNf4[code & 15];
  const float magnitude = kE2m1[code & 7];
  return (code & 8) != 0 ? -magnitude : magnitude;
}

uint8_t encode(float value, int codebook) {
  if (codebook == 2) return static_cast<uint8_t>(nearest(kNf4, 16, value));
  return static_cast<uint8_t>(nearest(kE2m1, 8, std::fabs(value)) | (std::signbit(value) ? 8 : 0));
}

using Unit = planes::Fields<4>;

const FormatInfo info = {
    WeightFormat::W4C,
    "w4c",
    "4-bit codebooks, 4.25 (MXFP4) to 4.5 bits per weight",
    Unit::kCols,
    Unit::kBytes,
    15,
    0,
    false,
    false,
    32,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    decode,
    bound,
};

}  // namespace smoe::w4c_format
