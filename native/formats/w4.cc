#include "formats/w4.h"

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::w4_format {

using Unit = planes::Fields<4>;

const FormatInfo info = {
    WeightFormat::W4,
    "w4",
    "4-bit integers, 4.25 bits per weight at g = 64",
    Unit::kCols,
    Unit::kBytes,
    15,
    8,
    true,
    true,
    64,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<8>,
    integer_format::bound,
};

}  // namespace smoe::w4_format
