// One bit per weight: scale or -scale.
#pragma once

#include "formats/format_info.h"

namespace smoe::w1_format {

extern const FormatInfo info;

}  // namespace smoe::w1_format
