#include "prepare/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/rtn.h"
#include "prepare/gptq.h"

namespace smoe {
namespace {

struct Job {
  const QuantizeOptions& options;
  const Grid& grid;
  const float* w;  // shifted
  int64_t cols, group;
  const float* weights;    // diagonal of the Hessian, or null
  const GptqBasis* basis;  // GPTQ only
  uint8_t* codes;
  std::vector<GroupParams>& params;  // [rows, groups]
  std::vector<double>& losses;       // [rows]

  GroupParams find(const float* values, const float* h) const {
    switch (options.method) {
      case QuantizeMethod::Rtn:
        return rtn_params(grid, values, group);
      case QuantizeMethod::Hqq:
        return hqq_params(grid, values, group);
      default:
        return search_params(grid, values, h, group);
    }
  }

  void independent(int64_t row, uint8_t* out, GroupParams* p) const {
    for (int64_t k = 0; k < cols; k += group) {
      p[k / group] = find(w + row * cols + k, weights == nullptr ? nullptr : weights + k);
      for (int64_t i = k; i < k + group; ++i) out[i] = encode(grid, p[k / group], w[row * cols + i]);
    }
  }

  void run(int64_t first, int64_t last) const {
    const int64_t groups = cols / group;
    if (basis == nullptr) {
      for (int64_t row = first; row < last; ++row)
        independent(row, codes + row * cols, &params[static_cast<size_t>(row * groups)]);
      return;
    }
    gptq_rows(grid, *basis, w + first * cols, last - first, group, true, codes + first * cols,
              &params[static_cast<size_t>(first * groups)]);
    // Error compensation is greedy and can lose against rounding each group by itself: both start the descent, the
    // better one stays.
    std::vector<uint8_t> other(static_cast<size_t>(cols));
    std::vector<GroupParams> other_params(static_cast<size_t>(groups));
    for (int64_t row = first; row < last; ++row) {
      GroupParams* mine = &params[static_cast<size_t>(row * groups)];
      const float* values = w + row * cols;
      double& loss = losses[static_cast<size_t>(row)];
      loss = refine_row(grid, *basis, values, group, options.sweeps, codes + row * cols, mine);
      independent(row, other.data(), other_params.data());
      const double alone = refine_row(grid, *basis, values, group, options.sweeps, other.data(), other_params.data());
      if (!(alone < loss)) continue;
      loss = alone;
      std::copy(other.begin(), other.end(), codes + row * cols);
      std::copy(other_params.begin(), other_params.end(), mine);
    }
  }
};

Status check(const float* w, int64_t rows, int64_t cols, const QuantizeOptions& options, const OuterSum* hessian) {
  const long long k = cols, g = options.group;
  if (rows <= 0 || cols <= 0) return error(Code::InvalidArgument, "a matrix needs rows and columns");
  if (options.group < 0 || (options.group > 0 && cols % options.group != 0))
    return error(Code::InvalidArgument, "group %lld does not divide the %lld columns", g, k);
  if (hessian != nullptr && hessian->size != cols)
    return error(Code::ShapeMismatch, "the Hessian has side %lld for %lld columns",
                 static_cast<long long>(hessian->size), k);
  if (options.method == QuantizeMethod::Gptq && (hessian == nullptr || hessian->count == 0))
    return error(Code::InvalidArgument, "GPTQ needs a Hessian of at least one row");
  if (options.method == QuantizeMethod::Hqq && options.symmetric)
    return error(Code::InvalidArgument, "HQQ fits a zero point: it has no symmetric form");
  if (options.format != WeightFormat::WN && options.planes != 0)
    return error(Code::InvalidArgument, "only wn has residual planes");
  if (options.format != WeightFormat::W4C && options.codebook != 0)
    return error(Code::InvalidArgument, "only w4c has codebooks");
  if (options.format == WeightFormat::W4C && (options.method != QuantizeMethod::Rtn || !options.symmetric))
    return error(Code::InvalidArgument, "codebooks are rounded to nearest, without zero points");
  if (!(options.damping > 0)) return error(Code::InvalidArgument, "damping must be positive, got %g", options.damping);
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (!std::isfinite(w[i]))
      return error(Code::NonFiniteInput, "weight [%lld, %lld] is not finite", static_cast<long long>(i / cols),
                   static_cast<long long>(i % cols));
  }
  return Status();
}

void measure(const float* w, const QuantizedMatrix& matrix, QuantizeReport* report) {
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) {
    dequantize_row(matrix, r, row.data());
    for (int64_t k = 0; k < matrix.cols; ++k) {
      const double value = w[r * matrix.cols + k], e = value - row[static_cast<size_t>(k)];
      report->squared_error += e * e;
      report->squared_weight += value * value;
    }
  }
}

Status quantize_codebook(const float* w, int64_t rows, int64_t cols, const QuantizeOptions& options,
                         QuantizedMatrix* out) {
  RtnOptions rtn;
  rtn.codebook = options.codebook;
  rtn.group = options.group;
  return quantize_rtn({w, Dtype::F32, rows, cols}, options.format, rtn, out);
}

}  // namespace

Status quantize(const float* w, int64_t rows, int64_t cols, const QuantizeOptions& options, const OuterSum* hessian,
                ThreadPool& pool, const CancelFlag* cancel, QuantizedMatrix* out, QuantizeReport* report) {
  SMOE_RETURN_IF_ERROR(check(w, rows, cols, options, hessian));
  QuantizeReport result;
  if (options.format == WeightFormat::W4C) {
    SMOE_RETURN_IF_ERROR(quantize_codebook(w, rows, cols, options, out));
    measure(w, *out, &result);
    if (report != nullptr) *report = result;
    return Status();
  }
  Grid grid;
  SMOE_RETURN_IF_ERROR(make_grid(options.format, options.symmetric, &grid));
  const int64_t group = options.group == 0 ? cols : options.group, groups = cols / group;
  const auto count = static_cast<size_t>(rows * cols);

  QuantizedMatrix matrix;
  matrix.format = options.format;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.group = group;
  matrix.mul = range_shift(grid, w, rows * cols);
  matrix.codes.resize(count);
  matrix.scales.resize(static_cast<size_t>(rows * groups));
  std::vector<float> shifted(count);
  for (size_t i = 0; i < count; ++i) shifted[i] = w[i] / matrix.mul;

  GptqBasis basis;
  const bool gptq = options.method == QuantizeMethod::Gptq;
  if (gptq) SMOE_RETURN_IF_ERROR(make_gptq_basis(*hessian, options.damping, options.act_order, &basis));
  std::vector<float> weights;
  if (hessian != nullptr && hessian->count > 0) {
    for (int64_t k = 0; k < cols; ++k)
      weights.push_back(static_cast<float>(hessian->at(k, k) / static_cast<double>(hessian->count)));
  }
  std::vector<GroupParams> params(static_cast<size_t>(rows * groups));
  std::vector<double> losses(static_cast<size_t>(rows));
  const Job job{options,
                grid,
                shifted.data(),
                cols,
                group,
                weights.empty() ? nullptr : weights.data(),
                gptq ? &basis : nullptr,
                matrix.codes.data(),
                params,
                losses};
  pool.parallel_for((rows + kGptqRows - 1) / kGptqRows, [&](int64_t item, int) {
    if (!cancelled(cancel)) job.run(item * kGptqRows, std::min(rows, (item + 1) * kGptqRows));
  });
  if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");

  if (!options.symmetric) matrix.zeros.resize(matrix.scales.size());
  for (size_t i = 0; i < params.size(); ++i) {
    matrix.scales[i] = options.format == WeightFormat::W1 ? params[i].step / 2 : params[i].step;
    if (!options.symmetric) matrix.zeros[i] = params[i].zero;
  }
  for (int plane = 0; plane < options.planes; ++plane) SMOE_RETURN_IF_ERROR(add_plane(w, &matrix));

  measure(w, matrix, &result);
  const double mul = matrix.mul;
  for (double loss : losses) result.loss += loss * mul * mul;
  result.damping = basis.damping;
  result.dead_columns = basis.dead;
  if (report != nullptr) *report = result;
  *out = std::move(matrix);
  return validate(*out);
}

Status add_plane(const float* w, QuantizedMatrix* matrix) {
  if (matrix->format != WeightFormat::WN) return error(Code::InvalidArgument, "only wn has residual planes");
  const int64_t cols = matrix->cols, group = matrix->group;
  QuantizedMatrix::Plane plane;
  plane.bits.resize(matrix->codes.size());
  plane.scales.resize(matrix->scales.size());
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < matrix->rows; ++r) {
    dequantize_row(*matrix, r, row.data());
    for (int64_t k = 0; k < cols; k += group) {
      double sum = 0;
      for (int64_t i = k; i < k + group; ++i) {
        const float e = w[r * cols + i] - row[static_cast<size_t>(i)];
        plane.bits[static_cast<size_t>(r * cols + i)] = e >= 0;
        sum += std::fabs(e);
      }
      const double scale = sum / static_cast<double>(group) / matrix->mul;
      // Never 0, which the file could not tell from damage: the least positive f16 moves an exact group by 6e-8.
      const float stored = f16_to_f32(f32_to_f16(static_cast<float>(scale)));
      plane.scales[static_cast<size_t>(r * matrix->groups() + k / group)] = stored > 0 ? stored : 0x1p-24f;
    }
  }
  matrix->planes.push_back(std::move(plane));
  return Status();
}

}  // namespace smoe
