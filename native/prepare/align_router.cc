#include "prepare/align_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "prepare/grid.h"

namespace smoe {
namespace {

constexpr int kRatios = 101;
constexpr double ratio_of(int step) { return 1 - 0.0065 * step; }

// log softmax over the chosen experts.
void log_softmax(const double* logits, const std::vector<size_t>& chosen, std::vector<double>* out) {
  double most = -INFINITY, sum = 0;
  for (size_t e : chosen) most = std::max(most, logits[e]);
  for (size_t e : chosen) sum += std::exp(logits[e] - most);
  out->clear();
  for (size_t e : chosen) out->push_back(logits[e] - most - std::log(sum));
}

std::vector<double> logits_of(const RouterAlignment& router, const float* weight) {
  std::vector<double> logits;
  logits.reserve(static_cast<size_t>(router.tokens * router.experts));
  for (int64_t t = 0; t < router.tokens; ++t) {
    const float* x = router.inputs + t * router.hidden;
    for (int64_t e = 0; e < router.experts; ++e) {
      double sum = router.bias == nullptr ? 0 : router.bias[e];
      for (int64_t i = 0; i < router.hidden; ++i) sum += static_cast<double>(weight[e * router.hidden + i]) * x[i];
      logits.push_back(sum);
    }
  }
  return logits;
}

QuantizedMatrix rounded(const RouterAlignment& router, const Grid& grid, double ratio) {
  QuantizedMatrix m;
  m.format = WeightFormat::W8;
  m.rows = router.experts;
  m.cols = m.group = router.hidden;
  m.mul = range_shift(grid, router.weight, m.rows * m.cols);
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t e = 0; e < m.rows; ++e) {
    for (int64_t i = 0; i < m.cols; ++i) row[static_cast<size_t>(i)] = router.weight[e * m.cols + i] / m.mul;
    const GroupParams params = rtn_params(grid, row.data(), m.cols, static_cast<float>(ratio));
    for (float value : row) m.codes.push_back(encode(grid, params, value));
    m.scales.push_back(params.step);
    m.zeros.push_back(params.zero);
  }
  return m;
}

// Mean KL of the router at this ratio, over the chosen experts of each token.
double divergence(const RouterAlignment& router, const Grid& grid, double ratio, const std::vector<double>& exact,
                  const std::vector<std::vector<size_t>>& chosen) {
  const QuantizedMatrix m = rounded(router, grid, ratio);
  std::vector<float> weight(static_cast<size_t>(m.rows * m.cols));
  for (int64_t e = 0; e < m.rows; ++e) dequantize_row(m, e, weight.data() + e * m.cols);
  const std::vector<double> logits = logits_of(router, weight.data());
  std::vector<double> p, q;
  double kl = 0;
  for (int64_t t = 0; t < router.tokens; ++t) {
    const std::vector<size_t>& own = chosen[static_cast<size_t>(t)];
    log_softmax(exact.data() + t * router.experts, own, &p);
    log_softmax(logits.data() + t * router.experts, own, &q);
    for (size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
  }
  return kl / static_cast<double>(router.tokens);
}

}  // namespace

Status align_router(const RouterAlignment& router, ThreadPool& pool, const CancelFlag* cancel, RouterClip* clip,
                    QuantizedMatrix* matrix) {
  for (int64_t i = 0; i < router.experts * router.hidden; ++i)
    if (!std::isfinite(router.weight[i])) return Status(Code::NonFiniteInput, "a router weight is not finite");
  Grid grid;
  SMOE_RETURN_IF_ERROR(make_grid(WeightFormat::W8, false, &grid));
  RouterClip best;
  if (router.tokens > 0) {
    const std::vector<double> exact = logits_of(router, router.weight);
    const int64_t others = std::max<int64_t>(0, router.experts - router.k);
    const int64_t m = std::min(router.experts, router.k + static_cast<int64_t>(router.r * static_cast<double>(others)));
    std::vector<std::vector<size_t>> chosen;
    for (int64_t t = 0; t < router.tokens; ++t) {
      std::vector<size_t> order(static_cast<size_t>(router.experts));
      std::iota(order.begin(), order.end(), size_t{0});
      const double* logits = exact.data() + t * router.experts;
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
      order.resize(static_cast<size_t>(m));
      chosen.push_back(std::move(order));
    }
    std::vector<double> kl(kRatios);
    pool.parallel_for(kRatios, [&](int64_t step, int) {
      if (cancelled(cancel)) return;
      kl[static_cast<size_t>(step)] = divergence(router, grid, ratio_of(static_cast<int>(step)), exact, chosen);
    });
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const auto least = std::min_element(kl.begin(), kl.end());
    best = {ratio_of(static_cast<int>(least - kl.begin())), *least, kl.front()};
  }
  QuantizedMatrix made = rounded(router, grid, best.ratio);
  SMOE_RETURN_IF_ERROR(validate(made));
  *clip = best;
  *matrix = std::move(made);
  return Status();
}

}  // namespace smoe
