#include "formats/matrix_source.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace smoe {
namespace {

// Values of all codes, made once: decoding is then one load and one multiplication.
struct CodeTables {
  float e4m3[256], e2m1[16], e8m0[256];

  CodeTables() {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    for (int code = 0; code < 256; ++code) {
      const int exponent = code >> 3 & 15, mantissa = code & 7;
      const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
      e4m3[code] = static_cast<float>(code < 128 ? magnitude : -magnitude);
      if ((code & 127) == 127) e4m3[code] = kNan;  // the format has no infinity
      e8m0[code] = code == 255 ? kNan : std::ldexp(1.0f, code - 127);
    }
    const float magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int code = 0; code < 16; ++code) e2m1[code] = code < 8 ? magnitudes[code] : -magnitudes[code - 8];
  }
};

const CodeTables& tables() {
  static const CodeTables made;
  return made;
}

float scale_at(const BlockScales& scales, int64_t index) {
  const auto* at = static_cast<const unsigned char*>(scales.data);
  if (scales.dtype == Dtype::U8) return tables().e8m0[at[index]];
  float value;
  to_f32(at + static_cast<size_t>(index) * dtype_bytes(scales.dtype), scales.dtype, 1, &value);
  return value;
}

int64_t scales_per_row(const MatrixSource& source) {
  return (source.stored_cols + source.scales.block_cols - 1) / source.scales.block_cols;
}

template <Coding coding>
float code_value(const unsigned char* data, int64_t index) {
  if constexpr (coding == Coding::F8E4M3) return tables().e4m3[data[index]];
  return tables().e2m1[data[index / 2] >> (index % 2 * 4) & 15];
}

template <Coding coding>
void decode(const MatrixSource& source, int64_t row, int64_t col, int64_t count, float* out) {
  const auto* data = static_cast<const unsigned char*>(source.data);
  const BlockScales& scales = source.scales;
  const int64_t per_row = scales_per_row(source);
  for (int64_t done = 0; done < count;) {
    const int64_t index = source.index(row, col + done), i = index / source.stored_cols, j = index % source.stored_cols;
    const float scale = scale_at(scales, i / scales.block_rows * per_row + j / scales.block_cols);
    // As far as the same scale goes: to the end of its block along a stored row, one element across rows.
    int64_t run = 1;
    if (source.col_stride == 1)
      run = std::min({count - done, scales.block_cols - j % scales.block_cols, source.stored_cols - j});
    for (int64_t c = 0; c < run; ++c) out[done + c] = code_value<coding>(data, index + c) * scale;
    done += run;
  }
}

Status check_one_scale(const MatrixSource& source, int64_t block_row, int64_t block_col) {
  const float scale = scale_at(source.scales, block_row * scales_per_row(source) + block_col);
  if (std::isfinite(scale) && scale > 0) return Status();
  return error(Code::InvalidQuantization, "scale [%lld, %lld] must be finite and above 0, got %g",
               static_cast<long long>(block_row), static_cast<long long>(block_col), static_cast<double>(scale));
}

}  // namespace

void read_elements(const MatrixSource& source, int64_t row, int64_t col, int64_t count, float* out) {
  if (source.coding == Coding::F8E4M3) return decode<Coding::F8E4M3>(source, row, col, count, out);
  if (source.coding == Coding::Mxfp4) return decode<Coding::Mxfp4>(source, row, col, count, out);
  const size_t element = dtype_bytes(source.dtype);
  const auto* at =
      static_cast<const unsigned char*>(source.data) + static_cast<size_t>(source.index(row, col)) * element;
  if (source.col_stride == 1) return to_f32(at, source.dtype, static_cast<size_t>(count), out);
  for (int64_t c = 0; c < count; ++c)
    to_f32(at + c * source.col_stride * static_cast<int64_t>(element), source.dtype, 1, out + c);
}

Status check_scales(const MatrixSource& source) {
  if (source.coding == Coding::Plain || source.rows == 0 || source.cols == 0) return Status();
  const BlockScales& scales = source.scales;
  // Strides are not negative: the first and the last element bound the stored rows of the view. Its columns are not
  // narrowed down, since every view in use takes whole rows or whole columns of rows.
  const int64_t first = source.index(0, 0) / source.stored_cols;
  const int64_t last = source.index(source.rows - 1, source.cols - 1) / source.stored_cols;
  for (int64_t block_row = first / scales.block_rows; block_row <= last / scales.block_rows; ++block_row) {
    for (int64_t block_col = 0; block_col < scales_per_row(source); ++block_col)
      SMOE_RETURN_IF_ERROR(check_one_scale(source, block_row, block_col));
  }
  return Status();
}

Status check_codes(const MatrixSource& source) {
  if (source.coding != Coding::F8E4M3) return Status();
  const unsigned char* codes = static_cast<const unsigned char*>(source.data);
  for (int64_t row = 0; row < source.rows; ++row) {
    const unsigned char* first = codes + source.index(row, 0);
    bool nan = false;  // no early exit inside a row, so that the loop vectorises where columns are adjacent
    for (int64_t col = 0; col < source.cols; ++col) nan |= (first[col * source.col_stride] & 0x7f) == 0x7f;
    if (nan) {
      return error(Code::InvalidQuantization, "row %lld holds a NaN code", static_cast<long long>(row));
    }
  }
  return Status();
}

}  // namespace smoe
