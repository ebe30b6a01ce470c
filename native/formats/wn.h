// Bit-nested (D2MoE): a 2-bit base with zero points, and one-bit planes of the residual, each with its own scales. A
// reader may stop after any plane.
#pragma once

#include "formats/format_info.h"

namespace smoe::wn_format {

extern const FormatInfo info;

}  // namespace smoe::wn_format
