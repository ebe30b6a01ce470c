// Round to nearest: the simplest quantizer of every format, and the yardstick of the better ones.
#pragma once

#include "formats/quantized.h"

namespace smoe {

struct RtnOptions {
  int64_t group = 0;        // columns per scale; 0: the format's default, or all columns where it does not divide them
  bool asymmetric = false;  // zero points (w8, w4, w3, w2; wn's base has them always)
  int codebook = 0;         // w4c: 0 MXFP4 (groups of 32), 1 NVFP4 (16), 2 NF4
  int planes = 2;           // wn
};

// Reads rows x cols values (F32, F16 or BF16). NaN and infinities are refused.
Status quantize_rtn(const MatrixSource& source, WeightFormat format, const RtnOptions& options, QuantizedMatrix* out);
inline Status quantize_rtn(const MatrixSource& source, WeightFormat format, int64_t group, bool asymmetric,
                           QuantizedMatrix* out) {
  RtnOptions options;
  options.group = group;
  options.asymmetric = asymmetric;
  return quantize_rtn(source, format, options, out);
}

}  // namespace smoe
