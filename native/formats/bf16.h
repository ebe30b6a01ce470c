// The 16-bit form of P16: a chunk is two consecutive columns of 16 rows as bf16 pairs.
#pragma once

#include "formats/packed_matrix.h"

namespace smoe::bf16_format {

void pack_tile(const MatrixSource& source, int64_t tile, unsigned char* out);
void unpack_row(const unsigned char* tile, int row_in_tile, int64_t cols, float* out);

}  // namespace smoe::bf16_format
