// Symmetric matrices of calibration: the sum of x x^T, and what GPTQ needs of it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace smoe {

// S = sum over rows of x x^T, lower triangle, row i at i(i+1)/2, in double: K (K + 1) / 2 * 8 bytes, 64 KiB at K = 128
// and 16.8 MB at K = 2048. Products of floats are exact in double and rows are added in their order, so the sum does
// not depend on threads, and adding a text in two calls gives the bits of adding it in one.
struct OuterSum {
  int64_t size = 0;   // K
  int64_t count = 0;  // rows added
  std::vector<double> lower;

  double at(int64_t i, int64_t j) const {
    return i >= j ? lower[static_cast<size_t>(i * (i + 1) / 2 + j)] : lower[static_cast<size_t>(j * (j + 1) / 2 + i)];
  }
  size_t bytes() const { return lower.size() * sizeof(double); }
  // Refuses sizes whose triangle does not fit memory.
  Status resize(int64_t k);
};

// Several sums at once, so that few long ones and many short ones both keep the threads busy.
struct OuterJob {
  OuterSum* sum = nullptr;
  const float* const* rows = nullptr;
  int64_t count = 0;
};
Status accumulate(ThreadPool& pool, const std::vector<OuterJob>& jobs, const CancelFlag* cancel);

// In place: the lower Cholesky factor L of a row-major n x n matrix (its lower triangle is read; the upper becomes 0).
// False when the matrix is not positive definite.
bool cholesky(double* a, int64_t n);
// U with H^-1 = U^T U, upper triangular, from the lower factor L of H. `u` is n x n. False when rounding lost positive
// definiteness: damp more.
bool inverse_upper_factor(const double* lower, int64_t n, double* u);

}  // namespace smoe
