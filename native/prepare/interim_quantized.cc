// validate() and dequantize_row() until formats/quantized.cc arrives with the packed kernels; then this file goes.
#include "formats/quantized.h"

#include <cmath>

namespace smoe {
namespace {

// Codes of each integer format and the zero point of its symmetric form (specs/quantization.md 4.1).
struct IntegerFormat {
  int max_code;
  float zero;
};
bool integer_format(WeightFormat format, IntegerFormat* out) {
  switch (format) {
    case WeightFormat::W8:
      *out = {255, 128};
      return true;
    case WeightFormat::W4:
      *out = {15, 8};
      return true;
    case WeightFormat::W3:
      *out = {7, 4};
      return true;
    case WeightFormat::W2:
    case WeightFormat::WN:
      *out = {3, 2};
      return true;
    case WeightFormat::W1:
      *out = {1, 0.5f};  // s(2u - 1) = 2s(u - 1/2)
      return true;
    case WeightFormat::T2:
    case WeightFormat::T5:
      *out = {2, 1};
      return true;
    default:
      return false;
  }
}

}  // namespace

Status validate(const QuantizedMatrix& m) {
  IntegerFormat integers{255, 0};
  const bool is_integer = integer_format(m.format, &integers);
  if (m.format == WeightFormat::W4C) integers.max_code = 15;
  if (!is_integer && m.format != WeightFormat::W4C && m.format != WeightFormat::F8)
    return error(Code::InvalidQuantization, "%s is not a quantized format", weight_format_name(m.format));
  if (m.rows <= 0 || m.cols <= 0 || m.group <= 0 || (m.cols % m.group != 0 && m.format != WeightFormat::F8))
    return error(Code::InvalidQuantization, "a quantized matrix of [%lld, %lld] cannot have groups of %lld",
                 static_cast<long long>(m.rows), static_cast<long long>(m.cols), static_cast<long long>(m.group));
  const size_t weights = static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols);
  const size_t scales = static_cast<size_t>(m.rows) * static_cast<size_t>(m.groups());
  if (m.codes.size() != weights || m.scales.size() != scales || (!m.zeros.empty() && m.zeros.size() != scales))
    return error(Code::InvalidQuantization, "codes, scales or zeros of a quantized matrix have the wrong length");
  for (uint8_t code : m.codes) {
    if (code > integers.max_code || (m.format == WeightFormat::F8 && (code & 0x7f) == 0x7f))
      return error(Code::InvalidQuantization, "code %d is outside the format %s", code, weight_format_name(m.format));
  }
  for (float scale : m.scales) {
    if (!std::isfinite(scale) || scale == 0)
      return error(Code::InvalidQuantization, "a scale is %g: it must be finite and not zero", scale);
  }
  for (float zero : m.zeros) {
    if (!std::isfinite(zero)) return error(Code::InvalidQuantization, "a zero point is not finite");
  }
  if (!std::isfinite(m.mul) || m.mul == 0) return error(Code::InvalidQuantization, "the multiplier is %g", m.mul);
  for (const QuantizedMatrix::Plane& plane : m.planes) {
    if (plane.bits.size() != weights || plane.scales.size() != scales)
      return error(Code::InvalidQuantization, "a residual plane has the wrong length");
  }
  return Status();
}

void dequantize_row(const QuantizedMatrix& m, int64_t row, float* out) {
  static const float e2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  IntegerFormat integers{0, 0};
  integer_format(m.format, &integers);
  const uint8_t* codes = m.codes.data() + row * m.cols;
  for (int64_t k = 0; k < m.cols; ++k) {
    const size_t g = static_cast<size_t>(row * m.groups() + k / m.group);
    const float scale = m.scales[g];
    float value;
    if (m.format == WeightFormat::W4C) {
      value = (codes[k] & 8 ? -e2m1[codes[k] & 7] : e2m1[codes[k] & 7]) * scale;
    } else if (m.format == WeightFormat::F8) {
      const int exponent = (codes[k] >> 3) & 15, mantissa = codes[k] & 7;
      value = exponent > 0 ? std::ldexp(1 + mantissa / 8.0f, exponent - 7) : std::ldexp(mantissa / 8.0f, -6);
      value = (codes[k] & 0x80 ? -value : value) * scale;
    } else if (m.format == WeightFormat::W1) {
      value = codes[k] != 0 ? scale : -scale;
    } else {
      value = scale * (static_cast<float>(codes[k]) - (m.zeros.empty() ? integers.zero : m.zeros[g]));
    }
    for (const QuantizedMatrix::Plane& plane : m.planes) {
      const size_t at = static_cast<size_t>(row * m.cols + k);
      value += plane.bits[at] != 0 ? plane.scales[g] : -plane.scales[g];
    }
    out[k] = m.mul * value;
  }
}

}  // namespace smoe
