#include "prepare/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace smoe {

Status make_gptq_basis(const OuterSum& sum, double damping, bool act_order, GptqBasis* out) {
  const int64_t n = sum.size;
  const auto square = static_cast<size_t>(n * n);
  if (sum.count <= 0) return error(Code::InvalidArgument, "a Hessian of no rows says nothing");
  GptqBasis basis;
  basis.size = n;
  std::vector<double> diagonal(static_cast<size_t>(n));
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    double& value = diagonal[static_cast<size_t>(i)];
    value = sum.at(i, i) / static_cast<double>(sum.count);
    mean += value / static_cast<double>(n);
  }
  if (!std::isfinite(mean)) return Status(Code::NonFiniteInput, "a Hessian is not finite");
  if (mean == 0) mean = 1;  // every column is dead: any loss orders the codes as plain rounding does
  basis.order.resize(static_cast<size_t>(n));
  std::iota(basis.order.begin(), basis.order.end(), 0);
  if (act_order) {
    basis.reordered = true;
    std::stable_sort(basis.order.begin(), basis.order.end(), [&](int32_t a, int32_t b) {
      return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
    });
  }
  // A dead column keeps its weights and is rounded by itself (its row of H is zero but for the diagonal). The paper's
  // code sets it to 0 instead; but a column that a short calibration text never touched may be alive in use.
  for (double& value : diagonal) {
    if (value > 0) continue;
    value = mean;
    ++basis.dead;
  }
  std::vector<double> h(square), factor(square), lower;
  for (double p = damping;; p = std::max(2 * p, p + 0.01)) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        h[static_cast<size_t>(i * n + j)] =
            i == j ? diagonal[static_cast<size_t>(i)] + p * mean : sum.at(i, j) / static_cast<double>(sum.count);
      }
    }
    lower.assign(square, 0.0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        const int64_t row = basis.order[static_cast<size_t>(i)], column = basis.order[static_cast<size_t>(j)];
        lower[static_cast<size_t>(i * n + j)] = h[static_cast<size_t>(row * n + column)];
      }
    }
    basis.damping = p;
    if (cholesky(lower.data(), n) && inverse_upper_factor(lower.data(), n, factor.data())) break;
    // A sum of outer products is positive semi-definite, so a damping of its whole mean diagonal is past any rounding.
    if (p > 1) return Status(Code::NonFiniteInput, "a Hessian is not positive definite whatever the damping");
  }
  basis.hessian.assign(h.begin(), h.end());
  basis.factor.assign(factor.begin(), factor.end());
  *out = std::move(basis);
  return Status();
}

namespace {

// Columns whose errors wait before they reach the later ones; a multiple of the group where a scale is read from
// corrected weights, so that a group never starts with corrections outstanding.
int64_t block_columns(int64_t group) {
  constexpr int64_t kBlock = 128;
  if (group <= kBlock) return kBlock / group * group;
  return group % kBlock == 0 ? kBlock : group;
}

}  // namespace

void gptq_rows(const Grid& grid, const GptqBasis& basis, const float* w, int64_t rows, int64_t group, bool search,
               uint8_t* codes, GroupParams* params) {
  const int64_t n = basis.size, groups = n / group, block = block_columns(group);
  std::vector<float> left(static_cast<size_t>(rows * n)), errors(static_cast<size_t>(rows * block));
  const auto find = [&](const float* values) {
    return search ? search_params(grid, values, nullptr, group) : rtn_params(grid, values, group);
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < n; ++k)
      left[static_cast<size_t>(r * n + k)] = w[r * n + basis.order[static_cast<size_t>(k)]];
    if (!basis.reordered) continue;
    for (int64_t g = 0; g < groups; ++g) params[r * groups + g] = find(w + r * n + g * group);
  }
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(n, begin + block);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = left.data() + r * n;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t column = basis.order[static_cast<size_t>(k)];
        if (!basis.reordered && k % group == 0) params[r * groups + k / group] = find(row + k);
        const GroupParams& p = params[r * groups + column / group];
        const uint8_t code = encode(grid, p, row[k]);
        codes[r * n + column] = code;
        const float* u = basis.factor.data() + k * n;
        const float e = (row[k] - decode(p, code)) / u[k];
        errors[static_cast<size_t>(r * block + k - begin)] = e;
        for (int64_t j = k + 1; j < end; ++j) row[j] -= e * u[j];
      }
    }
    for (int64_t k = begin; k < end; ++k) {
      const float* u = basis.factor.data() + k * n;
      for (int64_t r = 0; r < rows; ++r) {
        const float e = errors[static_cast<size_t>(r * block + k - begin)];
        float* row = left.data() + r * n;
        for (int64_t j = end; j < n; ++j) row[j] -= e * u[j];
      }
    }
  }
}

double quadratic_loss(const GptqBasis& basis, const float* error) {
  double total = 0;
  for (int64_t i = 0; i < basis.size; ++i) {
    if (error[i] == 0) continue;
    const float* h = basis.hessian.data() + i * basis.size;
    double sum = 0;
    for (int64_t j = 0; j < basis.size; ++j) sum += static_cast<double>(h[j]) * error[j];
    total += sum * error[i];
  }
  return total;
}

namespace {

// One row of the descent: the error d = w - w^ and its gradient g = H d, kept up to date.
struct Descent {
  const Grid& grid;
  const GptqBasis& basis;
  const float* w;
  int64_t group;
  uint8_t* codes;
  GroupParams* params;
  std::vector<float> d, g, moved;

  const float* h(int64_t k) const { return basis.hessian.data() + k * basis.size; }

  void start() {
    const auto n = static_cast<size_t>(basis.size);
    d.resize(n);
    g.assign(n, 0);
    moved.resize(static_cast<size_t>(group));
    for (size_t k = 0; k < n; ++k) {
      d[k] = w[k] - decode(params[static_cast<int64_t>(k) / group], codes[k]);
      shift(static_cast<int64_t>(k), d[k]);
    }
  }
  void shift(int64_t k, float by) {
    if (by == 0) return;
    const float* row = h(k);
    for (int64_t j = 0; j < basis.size; ++j) g[static_cast<size_t>(j)] += by * row[j];
  }
  // Moves each code to where the parabola along its axis has its least value, as QuantEase (arXiv:2309.01885) does.
  // Exact line search: with the grid's nearest value to the minimum the loss cannot rise.
  bool move_codes() {
    bool any = false;
    for (int64_t k = 0; k < basis.size; ++k) {
      const auto at = static_cast<size_t>(k);
      const GroupParams& p = params[k / group];
      const float now = decode(p, codes[k]), curvature = h(k)[k];
      const uint8_t code = encode(grid, p, now + g[at] / curvature);
      const float step = now - decode(p, code);  // change of d
      if (code == codes[k] || 2 * step * g[at] + step * step * curvature >= 0) continue;
      codes[k] = code;
      d[at] += step;
      shift(k, step);
      any = true;
    }
    return any;
  }
  // The best step of each group with its codes as they are, then as it can be stored.
  void move_steps() {
    for (int64_t at = 0; at < basis.size; at += group) {
      GroupParams& p = params[at / group];
      double slope = 0, curvature = 0;
      for (int64_t i = 0; i < group; ++i) moved[static_cast<size_t>(i)] = static_cast<float>(codes[at + i]) - p.zero;
      for (int64_t i = 0; i < group; ++i) {
        const float q = moved[static_cast<size_t>(i)];
        if (q == 0) continue;
        double sum = 0;
        for (int64_t j = 0; j < group; ++j)
          sum += static_cast<double>(h(at + i)[at + j]) * moved[static_cast<size_t>(j)];
        slope += static_cast<double>(q) * g[static_cast<size_t>(at + i)];
        curvature += q * sum;
      }
      if (!(curvature > 0)) continue;
      const double wanted = p.step + slope / curvature;
      if (!(wanted > 0)) continue;
      const GroupParams rounded = round_params(grid, {static_cast<float>(wanted), p.zero});
      const double change = static_cast<double>(rounded.step) - p.step;
      if (change == 0 || change * change * curvature - 2 * change * slope >= 0) continue;
      p = rounded;
      for (int64_t i = 0; i < group; ++i) {
        const float by = w[at + i] - decode(p, codes[at + i]) - d[static_cast<size_t>(at + i)];
        d[static_cast<size_t>(at + i)] += by;
        shift(at + i, by);
      }
    }
  }
};

}  // namespace

double refine_row(const Grid& grid, const GptqBasis& basis, const float* w, int64_t group, int sweeps, uint8_t* codes,
                  GroupParams* params) {
  Descent descent{grid, basis, w, group, codes, params, {}, {}, {}};
  descent.start();
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    descent.move_steps();
    if (!descent.move_codes()) break;
  }
  double loss = 0;
  for (size_t k = 0; k < descent.d.size(); ++k) loss += static_cast<double>(descent.d[k]) * descent.g[k];
  return loss;
}

}  // namespace smoe
