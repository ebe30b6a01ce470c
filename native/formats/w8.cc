#include "formats/w8.h"

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::w8_format {

using Unit = planes::Fields<8>;

const FormatInfo info = {
    WeightFormat::W8,
    "w8",
    "8-bit integers, 8.125 bits per weight at g = 128",
    Unit::kCols,
    Unit::kBytes,
    255,
    128,
    true,
    true,
    128,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<128>,
    integer_format::bound,
};

}  // namespace smoe::w8_format
