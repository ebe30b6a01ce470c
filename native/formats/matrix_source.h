// A matrix as it is stored: in caller memory (a mapped file or a JS buffer), plain or as codes with one scale per
// block, and possibly a view (every second row, transposed) of what is stored there.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/status.h"

namespace smoe {

// Specs: quantization.md 1.3 and 1.4.
enum class Coding : int {
  Plain = 0,   // elements of `dtype`
  F8E4M3 = 1,  // one E4M3 byte per element
  Mxfp4 = 2,   // two E2M1 codes per byte, the low nibble first
};

// The factor of element (i, j) of the stored matrix is scale (i / block_rows, j / block_cols), with partial blocks at
// the far edges.
struct BlockScales {
  const void* data = nullptr;  // [ceil(N / block_rows), ceil(K / block_cols)] row by row, need not be aligned
  Dtype dtype = Dtype::F32;    // F32, F16 or BF16; U8: an E8M0 exponent, 2^(e - 127)
  int64_t block_rows = 1, block_cols = 1;
};

struct MatrixSource {
  const void* data = nullptr;  // need not be aligned
  Dtype dtype = Dtype::F32;    // F32, F16 or BF16; not read with a coding
  int64_t rows = 0, cols = 0;
  // Element (r, c) is the stored element first + r * row_stride + c * col_stride; a row_stride of 0 means row by row.
  int64_t first = 0, row_stride = 0, col_stride = 1;
  // With a coding, the width of the stored matrix: blocks are counted in it, not in the view.
  Coding coding = Coding::Plain;
  int64_t stored_cols = 0;
  BlockScales scales = {};

  bool row_by_row() const { return row_stride == 0 || (row_stride == cols && col_stride == 1); }
  int64_t index(int64_t row, int64_t col) const {
    return first + row * (row_stride == 0 ? cols : row_stride) + col * col_stride;
  }
};

// Elements (row, col .. col + count) as f32; with a coding, code times scale, rounded once.
void read_elements(const MatrixSource& source, int64_t row, int64_t col, int64_t count, float* out);

// Refuses scales that the view uses and that are NaN, infinite, zero or negative: a whole block of weights would be.
Status check_scales(const MatrixSource& source);
// Refuses E4M3 codes of the view that are NaN (0x7f and 0xff). MXFP4 has no such code.
Status check_codes(const MatrixSource& source);

}  // namespace smoe
