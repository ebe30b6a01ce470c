#include "prepare/symmetric.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "core/buffer.h"

namespace smoe {

Status OuterSum::resize(int64_t k) {
  constexpr int64_t kMaxSide = int64_t{1} << 16;  // 17 GB
  if (k <= 0 || k > kMaxSide)
    return error(Code::InvalidArgument, "a Hessian needs a side in [1, 65536], got %lld", static_cast<long long>(k));
  size = k;
  count = 0;
  try {
    lower.assign(static_cast<size_t>(k * (k + 1) / 2), 0.0);
  } catch (const std::bad_alloc&) {
    lower.clear();
    return error(Code::OutOfMemory, "no memory for a Hessian of side %lld", static_cast<long long>(k));
  }
  return Status();
}

namespace {

constexpr int64_t kRowsPerItem = 32;  // rows of the triangle: 32 of 2048 doubles stay in L2 over all rows of x

struct Item {
  const OuterJob* job;
  int64_t first, last;
};

void run_item(const Item& item) {
  const OuterJob& job = *item.job;
  double x[4][kRowsPerItem];
  for (int64_t t = 0; t < job.count; t += 4) {
    const int64_t n = std::min<int64_t>(4, job.count - t);
    const float* rows[4];
    for (int64_t r = 0; r < 4; ++r) {
      rows[r] = job.rows[r < n ? t + r : t];
      for (int64_t i = item.first; i < item.last; ++i) x[r][i - item.first] = r < n ? rows[r][i] : 0.0;
    }
    for (int64_t i = item.first; i < item.last; ++i) {
      const int64_t at = i - item.first;
      const double x0 = x[0][at], x1 = x[1][at], x2 = x[2][at], x3 = x[3][at];
      double* out = job.sum->lower.data() + i * (i + 1) / 2;
      // One row after the other, not (x0 + x1) + (x2 + x3): cutting the rows elsewhere must not change a bit.
      for (int64_t j = 0; j <= i; ++j)
        out[j] = (((out[j] + x0 * rows[0][j]) + x1 * rows[1][j]) + x2 * rows[2][j]) + x3 * rows[3][j];
    }
  }
}

}  // namespace

Status accumulate(ThreadPool& pool, const std::vector<OuterJob>& jobs, const CancelFlag* cancel) {
  std::vector<Item> items;
  for (const OuterJob& job : jobs) {
    if (job.count == 0) continue;
    for (int64_t first = 0; first < job.sum->size; first += kRowsPerItem)
      items.push_back({&job, first, std::min(first + kRowsPerItem, job.sum->size)});
  }
  // Refused before anything is added: a single NaN would spread over the whole matrix and cannot be taken out again.
  for (const OuterJob& job : jobs) {
    for (int64_t t = 0; t < job.count; ++t) {
      for (int64_t k = 0; k < job.sum->size; ++k) {
        if (!std::isfinite(job.rows[t][k]))
          return Status(Code::NonFiniteInput, "calibration met an activation that is not finite");
      }
    }
  }
  if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
  pool.parallel_for(static_cast<int64_t>(items.size()),
                    [&](int64_t i, int) { run_item(items[static_cast<size_t>(i)]); });
  for (const OuterJob& job : jobs) job.sum->count += job.count;
  return Status();
}

bool cholesky(double* a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double* row = a + i * n;
    for (int64_t j = 0; j <= i; ++j) {
      const double* other = a + j * n;
      double sum = row[j];
      for (int64_t k = 0; k < j; ++k) sum -= row[k] * other[k];
      if (j < i) {
        row[j] = sum / other[j];
      } else {
        if (!(sum > 0) || !std::isfinite(sum)) return false;
        row[i] = std::sqrt(sum);
      }
    }
    for (int64_t j = i + 1; j < n; ++j) row[j] = 0;
  }
  return true;
}

bool inverse_upper_factor(const double* lower, int64_t n, double* u) {
  // H^-1 = M^T M with M = L^-1; its own lower factor is U^T.
  std::vector<double> inverse(static_cast<size_t>(n * n), 0.0);  // M = L^-1, by forward substitution
  for (int64_t i = 0; i < n; ++i) {
    double* row = inverse.data() + i * n;
    row[i] = 1;
    for (int64_t k = 0; k < i; ++k) {
      const double factor = lower[i * n + k];
      const double* other = inverse.data() + k * n;
      for (int64_t j = 0; j <= k; ++j) row[j] -= factor * other[j];
    }
    for (int64_t j = 0; j <= i; ++j) row[j] /= lower[i * n + i];
  }
  std::fill(u, u + n * n, 0.0);
  for (int64_t k = 0; k < n; ++k) {  // H^-1 = sum over rows of M
    const double* row = inverse.data() + k * n;
    for (int64_t i = 0; i <= k; ++i) {
      for (int64_t j = 0; j <= i; ++j) u[i * n + j] += row[i] * row[j];
    }
  }
  if (!cholesky(u, n)) return false;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) std::swap(u[i * n + j], u[j * n + i]);
  }
  return true;
}

}  // namespace smoe
