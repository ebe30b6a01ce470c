#include "formats/t2.h"

#include <cmath>

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::t2_format {
namespace {

// Zero below half the scale, else one scale away from zero: the nearest of three levels.
double bound(double w, double scale, bool) {
  const double size = std::fabs(w);
  return size <= 1.5 * scale ? 0.5 * scale * (1 + 1e-6) : size - scale + 1e-6 * size;
}

}  // namespace

using Unit = planes::Fields<2>;

const FormatInfo info = {
    WeightFormat::T2,
    "t2",
    "ternary, 2 bits per weight, one scale per row",
    Unit::kCols,
    Unit::kBytes,
    2,
    1,
    false,
    true,
    0,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<1>,
    bound,
};

}  // namespace smoe::t2_format
