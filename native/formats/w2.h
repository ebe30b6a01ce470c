// 2-bit integers, codes around 2 or around zero points.
#pragma once

#include "formats/format_info.h"

namespace smoe::w2_format {

extern const FormatInfo info;

}  // namespace smoe::w2_format
