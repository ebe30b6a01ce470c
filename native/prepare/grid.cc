#include "prepare/grid.h"

#include <algorithm>

namespace smoe {

Status make_grid(WeightFormat format, bool symmetric, Grid* out) {
  Grid grid;
  grid.symmetric = symmetric;
  bool only_symmetric = false;
  switch (format) {
    case WeightFormat::W8:
      grid.max_code = 255;
      grid.center = 128;
      break;
    case WeightFormat::W4:
      break;
    case WeightFormat::W3:
      grid.max_code = 7;
      grid.center = 4;
      break;
    case WeightFormat::W2:
    case WeightFormat::WN:  // its base
      grid.max_code = 3;
      grid.center = 2;
      break;
    case WeightFormat::W1:
      grid.max_code = 1;
      grid.center = 0.5f;
      only_symmetric = true;
      break;
    case WeightFormat::T2:
    case WeightFormat::T5:
      grid.max_code = 2;
      grid.center = 1;
      grid.scale_dtype = Dtype::F32;
      only_symmetric = true;
      break;
    default:
      return error(Code::InvalidArgument, "%s has no uniform grid", weight_format_name(format));
  }
  if (only_symmetric && !symmetric)
    return error(Code::InvalidArgument, "%s has no asymmetric form", weight_format_name(format));
  *out = grid;
  return Status();
}

GroupParams round_params(const Grid& grid, GroupParams p) {
  float step = p.step;
  if (grid.scale_dtype == Dtype::F16) step = f16_to_f32(f32_to_f16(std::min(step, 65504.0f)));
  // A step that underflows would be stored as 0 and divide by it; the group then holds nothing that the format can tell
  // from 0.
  if (!(step > 0) || !std::isfinite(step)) step = 1;
  return {step, p.zero};
}

float range_shift(const Grid& grid, const float* w, int64_t n) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(w[i]));
  // Scales lie within a factor 256 of the largest weight; f16 is exact to 11 bits from 6e-5 on.
  if (grid.scale_dtype != Dtype::F16 || amax == 0 || (amax > 0.02f && amax < 16384.0f)) return 1;
  return std::ldexp(1.0f, std::ilogb(amax));
}

namespace {

double mean_abs(const float* w, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::fabs(w[i]);
  return sum / static_cast<double>(n);
}

}  // namespace

GroupParams rtn_params(const Grid& grid, const float* w, int64_t n, float shrink) {
  if (grid.max_code <= 2) {
    // One bit: s = mean |w|, step 2s. Ternary: BitNet's absmean.
    const double gamma = mean_abs(w, n) * shrink;
    return round_params(grid, {static_cast<float>(grid.max_code == 1 ? 2 * gamma : gamma), grid.center});
  }
  float lo = 0, hi = 0;
  for (int64_t i = 0; i < n; ++i) {
    lo = std::min(lo, w[i]);
    hi = std::max(hi, w[i]);
  }
  if (grid.symmetric) {
    const float amax = std::max(-lo, hi) * shrink;
    const float levels = static_cast<float>(grid.max_code) - grid.center;
    return round_params(grid, {amax / levels, grid.center});
  }
  const float top = static_cast<float>(grid.max_code);
  GroupParams p = round_params(grid, {(hi - lo) * shrink / top, 0});
  p.zero = std::clamp(std::nearbyint(-lo * shrink / p.step), 0.0f, top);
  return p;
}

double group_error(const Grid& grid, const GroupParams& p, const float* w, const float* h, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = static_cast<double>(w[i]) - decode(p, encode(grid, p, w[i]));
    sum += h == nullptr ? e * e : h[i] * e * e;
  }
  return sum;
}

namespace {

struct Best {
  const Grid& grid;
  const float* w;
  const float* h;
  int64_t n;
  GroupParams params;
  double error;

  bool offer(const GroupParams& p) {
    const double e = group_error(grid, p, w, h, n);
    if (!(e < error)) return false;
    params = p;
    error = e;
    return true;
  }
  // Least squares for the step with the codes and the zero as they are.
  GroupParams refit(const GroupParams& p) const {
    double top = 0, bottom = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double q = encode(grid, p, w[i]) - static_cast<double>(p.zero), weight = h == nullptr ? 1 : h[i];
      top += weight * q * w[i];
      bottom += weight * q * q;
    }
    return bottom > 0 && top > 0 ? round_params(grid, {static_cast<float>(top / bottom), p.zero}) : p;
  }
};

// Steps to try for ternary: for a threshold T the best step is the mean of |w| above it (TWN).
void scan_ternary(Best* best) {
  const double gamma = mean_abs(best->w, best->n);
  for (int i = 0; i <= 18; ++i) {
    const double threshold = (0.30 + 0.05 * i) * gamma;
    double sum = 0, count = 0;
    for (int64_t k = 0; k < best->n; ++k) {
      if (std::fabs(best->w[k]) <= threshold) continue;
      const double weight = best->h == nullptr ? 1 : best->h[k];
      sum += weight * std::fabs(best->w[k]);
      count += weight;
    }
    if (count > 0) best->offer(round_params(best->grid, {static_cast<float>(sum / count), best->grid.center}));
  }
}

}  // namespace

GroupParams search_params(const Grid& grid, const float* w, const float* h, int64_t n) {
  const GroupParams plain = rtn_params(grid, w, n);
  Best best{grid, w, h, n, plain, group_error(grid, plain, w, h, n)};
  if (grid.max_code == 2) {
    scan_ternary(&best);
  } else {
    for (int i = 1; i <= 32; ++i) best.offer(rtn_params(grid, w, n, 1 - 0.02f * static_cast<float>(i)));
  }
  for (int round = 0; round < 2 && best.offer(best.refit(best.params)); ++round) {
  }
  return best.params;
}

GroupParams hqq_params(const Grid& grid, const float* w, int64_t n, int iterations) {
  const float top = static_cast<float>(grid.max_code);
  float lo = 0, hi = 0;
  for (int64_t i = 0; i < n; ++i) {
    lo = std::min(lo, w[i]);
    hi = std::max(hi, w[i]);
  }
  GroupParams p = round_params(grid, {(hi - lo) / top, 0});
  p.zero = std::clamp(-lo / p.step, 0.0f, top);
  GroupParams best = p;
  double best_error = INFINITY;
  for (int iteration = 0; iteration <= iterations; ++iteration) {
    double error = 0, zero = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float code = static_cast<float>(encode(grid, p, w[i]));
      const float e = w[i] - p.step * (code - p.zero), size = std::fabs(e);
      error += size;
      // The shrinkage operator of |.|^0.7 with beta = 10; 0^(-0.3) is infinite, so a zero error is shrunk to 0 by
      // itself.
      const float kept = size > 0 ? std::max(size - std::pow(size, -0.3f) / 10, 0.0f) : 0;
      zero += code - (w[i] - std::copysign(kept, e)) / p.step;
    }
    if (!(error < best_error)) break;
    best_error = error;
    best = p;
    p.zero = std::clamp(static_cast<float>(zero / static_cast<double>(n)), 0.0f, top);
  }
  // The stored form of a fractional zero is the offset -step * zero in f16.
  const float offset = f16_to_f32(f32_to_f16(-best.step * best.zero));
  best.zero = -offset / best.step;
  return best;
}

}  // namespace smoe
