// The f32 form of P16: a chunk is one column of 16 rows.
#pragma once

#include "formats/packed_matrix.h"

namespace smoe::f32_format {

void pack_tile(const MatrixSource& source, int64_t tile, unsigned char* out);
void unpack_row(const unsigned char* tile, int row_in_tile, int64_t cols, float* out);

}  // namespace smoe::f32_format
