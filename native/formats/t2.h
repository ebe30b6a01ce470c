// Ternary weights at two bits each, as kernels like them.
#pragma once

#include "formats/format_info.h"

namespace smoe::t2_format {

extern const FormatInfo info;

}  // namespace smoe::t2_format
