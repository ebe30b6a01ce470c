// Activation rows into the interleaved form of TileFn: [column][m] floats, [column pair][m] bf16 pairs, or
// [four columns][m] bytes with a scale and a sum per row and group.
#pragma once

#include <string.h>

#include "kernels/isa/math-inl.h"
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

// One group of one row: columns [first, last) that hold values, codes up to `end`. Returns the scale.
float k_pack_group(const float* row, V factor, int64_t first, int64_t last, int64_t end, int m, unsigned char* x,
                   int32_t* sum) {
  V peak = v_zero(), odd = v_zero();
  for (int64_t c = first; c < last; c += 16) {
    const V values = load_scaled(row + c, static_cast<int>(last - c < 16 ? last - c : 16), factor);
    peak = v_max(v_abs(values), peak);
    odd = v_fma(values, v_zero(), odd);  // NaN as soon as one value is NaN or infinite
  }
  const float amax = v_max_lane(peak), finite = v_sum(odd);
  const bool tiny = !(amax >= 0x1p-100f);
  const V inverse = v_set(tiny ? 0.0f : 127.0f / amax);
  int32_t total = 0;
  for (int64_t c = first; c < end; c += 16) {
    const int64_t left = last - c;
    V values = v_zero();
    if (left > 0) values = load_scaled(row + c, static_cast<int>(left < 16 ? left : 16), factor);
    // The bound is second so that NaN becomes it: what is converted to integers is always in range.
    values = v_min(v_max(v_mul(values, inverse), v_set(-127.0f)), v_set(127.0f));
    int8_t codes[16];
    v_store_int8(codes, values);
    const int words = end - c < 16 ? static_cast<int>(end - c) / 4 : 4;
    for (int i = 0; i < words; ++i) memcpy(x + (c / 4 + i) * 4 * m, codes + 4 * i, 4);
    for (int i = 0; i < 16; ++i) total += codes[i];
  }
  *sum = total;
  return (tiny ? 0.0f : amax / 127.0f) + finite;
}

void k_pack_rows_int8(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k, int64_t group,
                      void* x, float* x_scale, int32_t* x_sum) {
  for (int r = 0; r < m; ++r) {
    const V factor = v_set(scale != nullptr ? scale[r] : 1.0f);
    unsigned char* codes = static_cast<unsigned char*>(x) + 4 * r;
    int64_t index = r;
    for (int64_t first = 0; first < k; first += group, index += m) {
      const int64_t last = k - first < group ? k : first + group;
      x_scale[index] = k_pack_group(rows[r], factor, first, last, last == k ? padded_k : last, m, codes, x_sum + index);
    }
  }
}

}  // namespace
