// 3-bit integers: a plane of two bits and one of one bit.
#pragma once

#include "formats/format_info.h"

namespace smoe::w3_format {

extern const FormatInfo info;

}  // namespace smoe::w3_format
