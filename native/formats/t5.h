// Ternary weights, five to a byte in base 3: 1.6 bits each.
#pragma once

#include "formats/format_info.h"

namespace smoe::t5_format {

extern const FormatInfo info;

}  // namespace smoe::t5_format
