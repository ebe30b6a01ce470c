// What the code that is not about one format knows of each: a row of the table in format_info.cc, filled by the
// format's own files.
#pragma once

#include <cstdint>

#include "formats/weight_format.h"

namespace smoe {

struct FormatInfo {
  WeightFormat format;
  const char* name;
  const char* description;
  int unit_cols, unit_bytes;  // columns and bytes of one unit of a tile (wn: without its planes)
  int max_code;
  int zero;           // zero point of a symmetric matrix as the kernels see it (w1: its codes count double)
  bool asymmetric;    // may have zero points
  bool int8_rows;     // fast: int8 activations, else bf16
  int default_group;  // 0: one scale per row
  // 16 rows of `columns` codes, a multiple of unit_cols, to the units of a tile; and one row back.
  void (*pack)(const uint8_t* const* rows, int64_t columns, unsigned char* out);
  void (*unpack)(const unsigned char* tile, int row, int64_t columns, uint8_t* codes);
  // What a code stands for at scale 1 and without a zero point of its own.
  float (*value)(int code, int codebook);
  // Largest |w - w^| that quantize_rtn leaves for this weight and scale (as stored, mul included).
  double (*bound)(double w, double scale, bool asymmetric);
};

// Null for f32 and bf16, and for values outside the enumeration.
const FormatInfo* format_info(WeightFormat format);

}  // namespace smoe
