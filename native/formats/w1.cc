#include "formats/w1.h"

#include <cmath>

#include "formats/planes.h"

namespace smoe::w1_format {
namespace {

float value(int code, int) { return static_cast<float>(2 * code - 1); }

// The sign is kept, so that the error is how far |w| lies from the scale.
double bound(double w, double scale, bool) { return std::fabs(std::fabs(w) - scale) * (1 + 1e-6); }

}  // namespace

using Unit = planes::Masks;

const FormatInfo info = {
    WeightFormat::W1,
    "w1",
    "signs, 1.25 bits per weight at g = 64",
    Unit::kCols,
    Unit::kBytes,
    1,
    1,
    false,
    true,
    64,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    value,
    bound,
};

}  // namespace smoe::w1_format
