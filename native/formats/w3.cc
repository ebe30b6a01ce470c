#include "formats/w3.h"

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::w3_format {

using Unit = planes::TwoAndOne;

const FormatInfo info = {
    WeightFormat::W3,
    "w3",
    "3-bit integers, 3.25 bits per weight at g = 64",
    Unit::kCols,
    Unit::kBytes,
    7,
    4,
    true,
    true,
    64,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<4>,
    integer_format::bound,
};

}  // namespace smoe::w3_format
