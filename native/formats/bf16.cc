#include "formats/bf16.h"

#include <algorithm>
#include <cstring>

namespace smoe::bf16_format {
namespace {

// Columns staged at a time: 16 rows of them (8 KiB) and the chunks they make stay in L1, and each source row is
// read in runs long enough for the hardware prefetcher.
constexpr int64_t kBlock = 256;

void load_bf16(const MatrixSource& source, int64_t row, int64_t col, int64_t count, uint16_t* out) {
  if (source.coding == Coding::Plain && source.dtype == Dtype::BF16 && source.col_stride == 1) {
    const auto* base = static_cast<const unsigned char*>(source.data);
    std::memcpy(out, base + static_cast<size_t>(source.index(row, col)) * 2, static_cast<size_t>(count) * 2);
    return;
  }
  float values[kBlock];
  read_elements(source, row, col, count, values);
  for (int64_t i = 0; i < count; ++i) out[i] = f32_to_bf16(values[i]);
}

}  // namespace

void pack_tile(const MatrixSource& source, int64_t tile, unsigned char* out) {
  const int64_t first_row = tile * kTileRows;
  const int64_t valid_rows = std::min<int64_t>(kTileRows, source.rows - first_row);
  uint16_t staged[kTileRows][kBlock] = {};  // padding rows stay zero
  for (int64_t k = 0; k < source.cols; k += kBlock) {
    const int64_t count = std::min(kBlock, source.cols - k);
    for (int64_t r = 0; r < valid_rows; ++r) {
      load_bf16(source, first_row + r, k, count, staged[r]);
      if (count % 2 != 0) staged[r][count] = 0;  // odd only in the last block, which is then shorter than kBlock
    }
    for (int64_t c = 0; c < (count + 1) / 2; ++c, out += 64) {
      uint16_t chunk[2 * kTileRows];
      for (int r = 0; r < kTileRows; ++r) {
        chunk[2 * r] = staged[r][2 * c];
        chunk[2 * r + 1] = staged[r][2 * c + 1];
      }
      std::memcpy(out, chunk, 64);
    }
  }
}

void unpack_row(const unsigned char* tile, int row_in_tile, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; ++k) {
    uint16_t value;
    std::memcpy(&value, tile + (k / 2) * 64 + row_in_tile * 4 + (k % 2) * 2, 2);
    out[k] = bf16_to_f32(value);
  }
}

}  // namespace smoe::bf16_format
