#include "formats/wn.h"

#include "formats/integer.h"
#include "formats/planes.h"

namespace smoe::wn_format {

using Unit = planes::Fields<2>;

const FormatInfo info = {
    WeightFormat::WN,
    "wn",
    "2-bit base and one-bit planes, 4.5 bits per weight with two planes at g = 128",
    32,  // two units of the base, one of each plane
    128,
    3,
    2,
    true,
    true,
    128,
    planes::pack<Unit>,
    planes::unpack<Unit>,
    integer_format::value<2>,
    integer_format::bound,
};

}  // namespace smoe::wn_format
