// 8-bit floats, E4M3 without infinities (float8_e4m3fn).
#pragma once

#include "formats/format_info.h"

namespace smoe::f8_format {

extern const FormatInfo info;

float decode(uint8_t code);
// Nearest, ties to even, values beyond +-448 saturate. NaN gives 0x7f.
uint8_t encode(float value);

}  // namespace smoe::f8_format
