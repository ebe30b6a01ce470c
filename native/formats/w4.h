// 4-bit integers, unsigned codes around 8 or around zero points: GPTQ, AWQ, compressed-tensors.
#pragma once

#include "formats/format_info.h"

namespace smoe::w4_format {

extern const FormatInfo info;

}  // namespace smoe::w4_format
