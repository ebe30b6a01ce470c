// 8-bit integers, unsigned codes around 128 or around zero points.
#pragma once

#include "formats/format_info.h"

namespace smoe::w8_format {

extern const FormatInfo info;

}  // namespace smoe::w8_format
