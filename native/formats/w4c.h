// 4-bit codebooks: MXFP4 and NVFP4 (E2M1 values) and NF4.
#pragma once

#include "formats/format_info.h"

namespace smoe::w4c_format {

extern const FormatInfo info;

// codebook as in QuantizedMatrix: 0 MXFP4, 1 NVFP4, 2 NF4.
float decode(int code, int codebook);
// The nearest value, ties to the even code.
uint8_t encode(float value, int codebook);

}  // namespace smoe::w4c_format
