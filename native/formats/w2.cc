#include "formats/w2.h"

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::w2_format {

using Unit = planes::Fields<2>;

const FormatInfo info = {
    WeightFormat::W2,
    "w2",
    "2-bit integers, 2.5 bits per weight at g = 64 with zero points",
    Unit::kCols,
    Unit::kBytes,
    3,
    2,
    true,
    true,
    64,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<2>,
    integer_format::bound,
};

}  // namespace smoe::w2_format
