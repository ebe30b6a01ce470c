#include "formats/rtn.h"

#include <algorithm>
#include <cmath>

#include "formats/f8.h"
#include "formats/format_info.h"
#include "formats/w4c.h"

namespace smoe {
namespace {

// One group of one row: values, where its codes go, and its place among scales and zeros.
struct Group {
  const float* w;
  int64_t count;
  uint8_t* codes;
  size_t index;
};

float largest(const Group& group) {
  float amax = 0;
  for (int64_t k = 0; k < group.count; ++k) amax = std::max(amax, std::fabs(group.w[k]));
  return amax;
}

// A scale as f16 holds it; never zero, and not below the wanted one when `upward`.
float f16_scale(float scale, bool upward) {
  uint16_t bits = f32_to_f16(std::min(scale, 65504.0f));
  // Among f16 subnormals the nearest can be far below, and clip.
  if ((upward || scale < 0x1p-14f) && f16_to_f32(bits) < scale && bits < 0x7bff) ++bits;
  return bits == 0 ? 0x1p-24f : f16_to_f32(bits);
}

uint8_t clip(float code, int max_code) {
  return static_cast<uint8_t>(std::min(std::max(code, 0.0f), static_cast<float>(max_code)));
}

void symmetric(const Group& group, const FormatInfo& info, QuantizedMatrix* out) {
  const float amax = largest(group), top = static_cast<float>(info.max_code - info.zero);
  const float scale = amax > 0 ? f16_scale(amax / top, false) : 1.0f;
  for (int64_t k = 0; k < group.count; ++k) {
    group.codes[k] = clip(std::nearbyint(group.w[k] / scale) + static_cast<float>(info.zero), info.max_code);
  }
  out->scales[group.index] = scale;
}

// The scale is rounded up, so that the range has room for every weight and none is clipped by more than half a step.
void asymmetric(const Group& group, const FormatInfo& info, QuantizedMatrix* out) {
  float low = 0, high = 0;
  for (int64_t k = 0; k < group.count; ++k) {
    low = std::min(low, group.w[k]);
    high = std::max(high, group.w[k]);
  }
  const float scale = high > low ? f16_scale((high - low) / static_cast<float>(info.max_code), true) : 1.0f;
  const float zero = std::nearbyint(-low / scale);
  for (int64_t k = 0; k < group.count; ++k) {
    group.codes[k] = clip(std::nearbyint(group.w[k] / scale) + zero, info.max_code);
  }
  out->scales[group.index] = scale;
  out->zeros[group.index] = zero;
}

void sign_only(const Group& group, QuantizedMatrix* out) {
  double sum = 0;
  for (int64_t k = 0; k < group.count; ++k) {
    sum += std::fabs(group.w[k]);
    group.codes[k] = group.w[k] < 0 ? 0 : 1;
  }
  out->scales[group.index] = f16_scale(static_cast<float>(sum / static_cast<double>(group.count)), false);
}

// The thresholds that are tried, as multiples of the mean: 0.30, 0.35 .. 1.20.
constexpr int kThresholds = 19;
constexpr double kLeastThreshold = 0.30, kThresholdStep = 0.05;

// Magnitudes by how many thresholds lie below them, in one pass: their sums, and how many there are.
struct Magnitudes {
  double sum[kThresholds + 1] = {}, count[kThresholds + 1] = {};
};

Magnitudes sort_magnitudes(const Group& group, double mean) {
  constexpr int kCopies = 4;  // neighbours would wait for each other's additions
  Magnitudes parts[kCopies];
  double limit[kThresholds];
  for (int i = 0; i < kThresholds; ++i) limit[i] = (kLeastThreshold + kThresholdStep * i) * mean;
  const double per_step = 1 / (kThresholdStep * mean);
  for (int64_t k = 0; k < group.count; ++k) {
    const double size = std::fabs(group.w[k]);
    const double place = size * per_step - (kLeastThreshold / kThresholdStep - 1);
    int below = static_cast<int>(std::min(std::max(place, 0.0), static_cast<double>(kThresholds)));
    // Rounding may have put it beside its place.
    if (below < kThresholds && size > limit[below]) ++below;
    if (below > 0 && size <= limit[below - 1]) --below;
    parts[k % kCopies].sum[below] += size;
    parts[k % kCopies].count[below] += 1;
  }
  for (int copy = 1; copy < kCopies; ++copy) {
    for (int i = 0; i <= kThresholds; ++i) {
      parts[0].sum[i] += parts[copy].sum[i];
      parts[0].count[i] += parts[copy].count[i];
    }
  }
  return parts[0];
}

// Least squares: for a threshold T the best scale is the mean of the weights above it, and the error is then smallest
// where sum^2/count is largest (TWN).
void ternary(const Group& group, QuantizedMatrix* out) {
  double mean = 0;
  for (int64_t k = 0; k < group.count; ++k) mean += std::fabs(group.w[k]);
  mean /= static_cast<double>(group.count);
  float scale = 1;
  if (mean > 0 && std::isfinite(mean)) {
    const Magnitudes sizes = sort_magnitudes(group, mean);
    double best_gain = 0, sum = 0, count = 0;
    for (int above = kThresholds; above >= 1; --above) {
      sum += sizes.sum[above];
      count += sizes.count[above];
      if (count == 0 || sum * sum / count < best_gain) continue;  // of equal ones, the lowest threshold
      best_gain = sum * sum / count;
      scale = static_cast<float>(sum / count);
    }
  }
  if (!(scale > 0)) scale = 1;
  for (int64_t k = 0; k < group.count; ++k) {
    const float level = group.w[k] / scale;  // a half goes to 0, the even neighbour
    group.codes[k] = static_cast<uint8_t>(1 + (level > 0.5f) - (level < -0.5f));
  }
  out->scales[group.index] = scale;
}

// mul * scale is what a code is multiplied with; the scale alone is what its storage holds.
void codebook(const Group& group, QuantizedMatrix* out) {
  const float amax = largest(group);
  float scale = 1;
  if (out->codebook == 0) {
    // E8M0. floor(log2 amax) - 2, one more when amax would lie above 7 = 1.75 * 4, which 6 represents worst.
    int exponent = 0;
    const float fraction = std::frexp(amax, &exponent);  // in [0.5, 1)
    const int power = exponent - 3 + (fraction >= 0.875f ? 1 : 0);
    if (amax > 0) scale = std::ldexp(1.0f, std::min(std::max(power, -127), 127));
  } else if (out->codebook == 1) {
    const float stored = f8_format::decode(f8_format::encode(amax / 6 / out->mul));
    scale = stored != 0 ? stored : 0.125f;
  } else {
    scale = amax > 0 ? f16_scale(amax / out->mul, true) : 1.0f;
  }
  for (int64_t k = 0; k < group.count; ++k) {
    group.codes[k] = w4c_format::encode(group.w[k] / (scale * out->mul), out->codebook);
  }
  out->scales[group.index] = scale;
}

void float8(const Group& group, QuantizedMatrix* out) {
  const float amax = largest(group);
  const float scale = amax > 0 ? std::max(amax / 448.0f, 0x1p-126f) : 1.0f;
  for (int64_t k = 0; k < group.count; ++k) group.codes[k] = f8_format::encode(group.w[k] / scale);
  out->scales[group.index] = scale;
}

// MWQ with white inputs: each plane takes the sign of what is left, times its mean magnitude.
void residual_planes(const Group& group, QuantizedMatrix* out) {
  std::vector<float> rest(static_cast<size_t>(group.count));
  const float scale = out->scales[group.index], zero = out->zeros[group.index];
  for (size_t k = 0; k < rest.size(); ++k) rest[k] = group.w[k] - (static_cast<float>(group.codes[k]) - zero) * scale;
  const int64_t at = group.codes - out->codes.data();
  for (QuantizedMatrix::Plane& plane : out->planes) {
    double sum = 0;
    for (float value : rest) sum += std::fabs(value);
    const float step = f16_to_f32(f32_to_f16(static_cast<float>(sum / static_cast<double>(group.count))));
    for (size_t k = 0; k < rest.size(); ++k) {
      const bool positive = rest[k] >= 0;
      plane.bits[static_cast<size_t>(at) + k] = positive ? 1 : 0;
      rest[k] -= positive ? step : -step;
    }
    plane.scales[group.index] = step;
  }
}

void quantize_group(const Group& group, const FormatInfo& info, QuantizedMatrix* out) {
  switch (out->format) {
    case WeightFormat::W1:
      return sign_only(group, out);
    case WeightFormat::T2:
    case WeightFormat::T5:
      return ternary(group, out);
    case WeightFormat::W4C:
      return codebook(group, out);
    case WeightFormat::F8:
      return float8(group, out);
    default:
      if (out->zeros.empty()) return symmetric(group, info, out);
      asymmetric(group, info, out);
      if (!out->planes.empty()) residual_planes(group, out);
  }
}

int64_t choose_group(const FormatInfo& info, const RtnOptions& options, int64_t cols) {
  if (options.group > 0) return options.group;
  const int64_t group = info.format == WeightFormat::W4C && options.codebook == 1 ? 16 : info.default_group;
  return group > 0 && cols % group == 0 ? group : cols;
}

// What brings the scales into the range of their storage: f16 keeps 11 bits from 2^-14 to 65504 only, E4M3 four from
// 2^-6 to 448. A power of two, which loses nothing, for f16; NVFP4's is defined as amax/(6 * 448).
float choose_mul(const FormatInfo& info, int codebook, float amax) {
  if (info.format == WeightFormat::W4C && codebook == 1) return amax > 0 ? std::max(amax / 2688.0f, 0x1p-126f) : 1.0f;
  const bool f16 = info.int8_rows ? info.default_group > 0 : info.format == WeightFormat::W4C && codebook == 2;
  if (!f16 || amax == 0 || (amax > 0x1p-5f && amax < 0x1p15f)) return 1.0f;
  int exponent = 0;
  std::frexp(amax, &exponent);
  return std::ldexp(1.0f, std::min(std::max(exponent, -100), 100));
}

}  // namespace

Status quantize_rtn(const MatrixSource& source, WeightFormat format, const RtnOptions& options, QuantizedMatrix* out) {
  const FormatInfo* info = format_info(format);
  if (info == nullptr) return error(Code::InvalidArgument, "%s is not quantized", weight_format_name(format));
  if (source.coding == Coding::Plain && source.dtype != Dtype::F32 && source.dtype != Dtype::F16 &&
      source.dtype != Dtype::BF16) {
    return error(Code::DtypeMismatch, "a weight matrix must be f32, f16 or bf16, got %s", dtype_name(source.dtype));
  }
  QuantizedMatrix matrix;
  matrix.format = format;
  matrix.rows = source.rows;
  matrix.cols = source.cols;
  matrix.codebook = format == WeightFormat::W4C ? options.codebook : 0;
  const bool nested = format == WeightFormat::WN;
  if (source.rows <= 0 || source.cols <= 0) return error(Code::InvalidArgument, "a weight matrix needs positive sizes");
  if (options.asymmetric && !info->asymmetric) {
    return error(Code::InvalidQuantization, "%s takes no zero points", info->name);
  }
  matrix.group = choose_group(*info, options, source.cols);
  if (matrix.group > source.cols || source.cols % matrix.group != 0) {
    return error(Code::InvalidQuantization, "%s group of %lld does not divide %lld columns", info->name,
                 static_cast<long long>(matrix.group), static_cast<long long>(source.cols));
  }
  const size_t cols = static_cast<size_t>(source.cols), weights = static_cast<size_t>(source.rows) * cols;
  const size_t groups = static_cast<size_t>(matrix.groups()), scales = static_cast<size_t>(source.rows) * groups;
  matrix.codes.resize(weights);
  matrix.scales.resize(scales);
  if (options.asymmetric || nested) matrix.zeros.resize(scales);
  if (nested) {
    matrix.planes.resize(static_cast<size_t>(std::max(options.planes, 0)));
    for (QuantizedMatrix::Plane& plane : matrix.planes) {
      plane.bits.resize(weights);
      plane.scales.resize(scales);
    }
  }

  std::vector<float> row(cols);
  const auto load = [&](int64_t index) { read_elements(source, index, 0, source.cols, row.data()); };
  float amax = 0;
  for (int64_t index = 0; index < source.rows; ++index) {
    load(index);
    for (float value : row) {
      if (!std::isfinite(value)) {
        return error(Code::NonFiniteInput, "a weight of row %lld is %g", static_cast<long long>(index), value);
      }
      amax = std::max(amax, std::fabs(value));
    }
  }
  matrix.mul = choose_mul(*info, matrix.codebook, amax);
  // Codebooks divide by mul themselves; the others see weights that are already divided, exactly.
  const float inverse = format == WeightFormat::W4C ? 1.0f : 1.0f / matrix.mul;
  for (int64_t index = 0; index < source.rows; ++index) {
    load(index);
    if (inverse != 1.0f) {
      for (float& value : row) value *= inverse;
    }
    for (size_t g = 0; g < groups; ++g) {
      const size_t first = g * static_cast<size_t>(matrix.group);
      quantize_group({row.data() + first, matrix.group, matrix.codes.data() + static_cast<size_t>(index) * cols + first,
                      static_cast<size_t>(index) * groups + g},
                     *info, &matrix);
    }
  }
  SMOE_RETURN_IF_ERROR(validate(matrix));
  *out = std::move(matrix);
  return Status();
}

}  // namespace smoe
