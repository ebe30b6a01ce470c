#include "formats/f32.h"

#include <algorithm>
#include <cstring>

namespace smoe::f32_format {
namespace {

constexpr int64_t kBlock = 128;  // as in bf16.cc: 8 KiB staged

}  // namespace

void pack_tile(const MatrixSource& source, int64_t tile, unsigned char* out) {
  const int64_t first_row = tile * kTileRows;
  const int64_t valid_rows = std::min<int64_t>(kTileRows, source.rows - first_row);
  float staged[kTileRows][kBlock] = {};  // padding rows stay zero
  for (int64_t k = 0; k < source.cols; k += kBlock) {
    const int64_t count = std::min(kBlock, source.cols - k);
    for (int64_t r = 0; r < valid_rows; ++r) {
      read_elements(source, first_row + r, k, count, staged[r]);
    }
    for (int64_t c = 0; c < count; ++c, out += 64) {
      float chunk[kTileRows];
      for (int r = 0; r < kTileRows; ++r) chunk[r] = staged[r][c];
      std::memcpy(out, chunk, 64);
    }
  }
}

void unpack_row(const unsigned char* tile, int row_in_tile, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; ++k) std::memcpy(out + k, tile + k * 64 + row_in_tile * 4, 4);
}

}  // namespace smoe::f32_format
