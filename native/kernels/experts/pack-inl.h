// Activation rows into the interleaved form of TileFn: [column][m] floats, or [column pair][m] bf16 pairs.
#pragma once

#include <string.h>

#include "kernels/kernel_table.h"

namespace {

// Writes `columns` (1..16) lanes of `rows` (1..4) vectors as columns of an interleaved block: lane i of row r goes to
// x[i * m + r]. Four rows at a time are transposed in registers; fewer go through memory one value at a time.
inline void interleave(const V* values, int rows, int columns, int m, float* x) {
  if (rows == 4) {
    float groups[64];
    v_store_transposed4(groups, values[0], values[1], values[2], values[3]);
    for (int i = 0; i < columns; ++i) memcpy(x + static_cast<int64_t>(i) * m, groups + 4 * i, 16);
    return;
  }
  for (int r = 0; r < rows; ++r) {
    float lanes[16];
    v_store(lanes, values[r]);
    // through memcpy: the same bits may be bf16 pairs
    for (int i = 0; i < columns; ++i) memcpy(x + static_cast<int64_t>(i) * m + r, lanes + i, 4);
  }
}

inline V load_scaled(const float* row, int count, V scale) {
  return v_mul(count >= 16 ? v_load(row) : v_load_n(row, count > 0 ? count : 0), scale);
}

void k_pack_rows_f32(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k, float* x) {
  for (int64_t c = 0; c < padded_k; c += 16) {
    const int columns = padded_k - c < 16 ? static_cast<int>(padded_k - c) : 16;
    const int valid = k - c < 16 ? static_cast<int>(k - c) : 16;
    for (int r = 0; r < m; r += 4) {
      const int group = m - r < 4 ? m - r : 4;
      V values[4];
      for (int i = 0; i < group; ++i) {
        values[i] = load_scaled(rows[r + i] + c, valid, v_set(scale != nullptr ? scale[r + i] : 1.0f));
      }
      interleave(values, group, columns, m, x + c * m + r);
    }
  }
}

void k_pack_rows_bf16(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k, uint32_t* x) {
  for (int64_t c = 0; c < padded_k; c += 32) {
    const int columns = padded_k - c < 32 ? static_cast<int>(padded_k - c) : 32;
    const int valid = k - c < 32 ? static_cast<int>(k - c) : 32;
    for (int r = 0; r < m; r += 4) {
      const int group = m - r < 4 ? m - r : 4;
      V values[4];
      for (int i = 0; i < group; ++i) {
        const V s = v_set(scale != nullptr ? scale[r + i] : 1.0f);
        const float* row = rows[r + i] + c;
        values[i] = v_pack_pairs(load_scaled(row, valid, s), load_scaled(row + 16, valid - 16, s));
      }
      interleave(values, group, (columns + 1) / 2, m, reinterpret_cast<float*>(x) + c / 2 * m + r);
    }
  }
}

}  // namespace
