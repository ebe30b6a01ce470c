#include "formats/quantized.h"

#include <algorithm>
#include <cmath>

#include "formats/format_info.h"

namespace smoe {
namespace {

// The sum over a group of (code - zero) * x, at most 128 * 127 each, must fit in 32 bits.
constexpr int64_t kMaxIntegerGroup = 65536;
constexpr int kMaxPlanes = 6;  // 2 + 6 bits are w8

template <class... Args>
Status invalid(const char* format, Args... args) {
  return error(Code::InvalidQuantization, format, args...);
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// A plain reduction, which compilers vectorise; std::max_element, which finds a place, took longer than packing.
int largest_of(const std::vector<uint8_t>& codes) {
  uint8_t largest = 0;
  for (uint8_t code : codes) largest = code > largest ? code : largest;
  return largest;
}

Status validate_scales(const QuantizedMatrix& matrix, const char* name, size_t count) {
  if (matrix.scales.size() != count) return invalid("%s needs %zu scales, got %zu", name, count, matrix.scales.size());
  if (!std::isfinite(matrix.mul) || matrix.mul == 0) return invalid("%s has multiplier %g", name, matrix.mul);
  for (size_t i = 0; i < count; ++i) {
    const float scale = matrix.scales[i];
    if (std::isfinite(scale) && scale != 0 && std::isfinite(scale * matrix.mul)) continue;
    return invalid("%s scale %zu is %g", name, i, scale);
  }
  return Status();
}

Status validate_planes(const QuantizedMatrix& matrix, const char* name, size_t weights, size_t scales) {
  if (matrix.format != WeightFormat::WN && !matrix.planes.empty()) return invalid("%s takes no residual planes", name);
  if (matrix.planes.size() > kMaxPlanes) {
    return invalid("%s takes at most %d residual planes, got %zu", name, kMaxPlanes, matrix.planes.size());
  }
  for (const QuantizedMatrix::Plane& plane : matrix.planes) {
    if (plane.bits.size() != weights || plane.scales.size() != scales) {
      return invalid("%s residual plane needs %zu bits and %zu scales, got %zu and %zu", name, weights, scales,
                     plane.bits.size(), plane.scales.size());
    }
    if (largest_of(plane.bits) > 1) return invalid("%s residual bits are 0 or 1", name);
    for (float scale : plane.scales) {
      if (!std::isfinite(scale) || !std::isfinite(scale * matrix.mul)) {
        return invalid("%s residual scale is %g", name, scale);
      }
    }
  }
  return Status();
}

Status validate_codes(const QuantizedMatrix& matrix, const FormatInfo& info, size_t weights) {
  if (matrix.codes.size() != weights) {
    return invalid("%s needs %zu codes, got %zu", info.name, weights, matrix.codes.size());
  }
  const int largest = largest_of(matrix.codes);
  if (largest > info.max_code) return invalid("%s codes go to %d, got %d", info.name, info.max_code, largest);
  if (matrix.format == WeightFormat::F8) {
    uint8_t nan = 0;
    for (uint8_t code : matrix.codes) nan = static_cast<uint8_t>(nan | ((code & 0x7f) == 0x7f ? 1 : 0));
    if (nan != 0) return invalid("%s codes 127 and 255 are NaN", info.name);
  }
  return Status();
}

}  // namespace

Status validate(const QuantizedMatrix& matrix) {
  const FormatInfo* info = format_info(matrix.format);
  if (info == nullptr) return invalid("format %d is not a quantized one", static_cast<int>(matrix.format));
  constexpr int64_t kMaxSide = int64_t{1} << 40;
  if (matrix.rows <= 0 || matrix.cols <= 0 || matrix.rows > kMaxSide || matrix.cols > kMaxSide) {
    return invalid("a weight matrix needs positive sizes below 2^40, got [%lld, %lld]",
                   static_cast<long long>(matrix.rows), static_cast<long long>(matrix.cols));
  }
  size_t weights = 0;
  if (!checked_product(static_cast<size_t>(matrix.rows), static_cast<size_t>(matrix.cols), &weights)) {
    return invalid("%s matrix is larger than memory can be", info->name);
  }
  const int64_t group = matrix.group;
  if (group <= 0 || group > matrix.cols || matrix.cols % group != 0) {
    return invalid("%s group of %lld does not divide %lld columns", info->name, static_cast<long long>(group),
                   static_cast<long long>(matrix.cols));
  }
  if (group != matrix.cols && group % info->unit_cols != 0) {
    return invalid("%s groups are multiples of %d columns, got %lld", info->name, info->unit_cols,
                   static_cast<long long>(group));
  }
  if (info->int8_rows && group > kMaxIntegerGroup) {
    return invalid("%s groups have at most %lld columns, got %lld", info->name,
                   static_cast<long long>(kMaxIntegerGroup), static_cast<long long>(group));
  }
  if (matrix.codebook < 0 || matrix.codebook > (matrix.format == WeightFormat::W4C ? 2 : 0)) {
    return invalid("%s has no codebook %d", info->name, matrix.codebook);
  }
  SMOE_RETURN_IF_ERROR(validate_codes(matrix, *info, weights));
  const size_t scales = static_cast<size_t>(matrix.rows * matrix.groups());
  SMOE_RETURN_IF_ERROR(validate_scales(matrix, info->name, scales));
  if (!matrix.zeros.empty()) {
    if (!info->asymmetric) return invalid("%s takes no zero points", info->name);
    if (matrix.zeros.size() != scales) {
      return invalid("%s needs %zu zero points, got %zu", info->name, scales, matrix.zeros.size());
    }
    if (!all_finite(matrix.zeros)) return invalid("%s has a zero point that is not finite", info->name);
  }
  return validate_planes(matrix, info->name, weights, scales);
}

void dequantize_row(const QuantizedMatrix& matrix, int64_t row, float* out) {
  const FormatInfo& info = *format_info(matrix.format);
  const size_t codes = static_cast<size_t>(row * matrix.cols), scales = static_cast<size_t>(row * matrix.groups());
  for (int64_t k = 0; k < matrix.cols; ++k) {
    const size_t code = codes + static_cast<size_t>(k), group = scales + static_cast<size_t>(k / matrix.group);
    float value = info.value(matrix.codes[code], matrix.codebook);
    if (!matrix.zeros.empty()) value -= matrix.zeros[group] - static_cast<float>(info.zero);
    out[k] = value * (matrix.scales[group] * matrix.mul);
    for (const QuantizedMatrix::Plane& plane : matrix.planes) {
      const float scale = plane.scales[group] * matrix.mul;
      out[k] += plane.bits[code] != 0 ? scale : -scale;
    }
  }
}

}  // namespace smoe
