// GPTQ (specs/quantization.md 2.4): rounding column after column, each error spread over the columns not yet rounded;
// then an optional descent on single codes and scales under the same quadratic loss.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "prepare/grid.h"
#include "prepare/symmetric.h"

namespace smoe {

// What all rows of a matrix share. loss(row) = (w - w^) H (w - w^)^T with H = sum x x^T / rows + damping.
struct GptqBasis {
  int64_t size = 0;
  std::vector<float> hessian;  // [K, K], damped
  std::vector<float> factor;   // [K, K] U in the order of `order`
  std::vector<int32_t> order;  // column that comes k-th
  bool reordered = false;      // act_order: scales are then fixed before the first column
  double damping = 0;          // part of the mean diagonal that was added, after escalation
  int64_t dead = 0;            // columns that no calibration row ever touched
};

// `sum` holds at least one row. Damping starts at `damping` and rises until both factorisations succeed.
Status make_gptq_basis(const OuterSum& sum, double damping, bool act_order, GptqBasis* out);

// Most rows handled together: U is then read once for all of them.
constexpr int64_t kGptqRows = 16;

// Quantizes `rows` <= kGptqRows rows of w [rows, K] with groups of `group` columns into codes [rows, K] and params
// [rows, K/group]. `search`: MSE-optimal instead of plain scales at each group.
void gptq_rows(const Grid& grid, const GptqBasis& basis, const float* w, int64_t rows, int64_t group, bool search,
               uint8_t* codes, GroupParams* params);

// Descent from given codes: single codes and group steps move while the loss of the row falls, at most `sweeps` times
// over the row. Returns the loss, which never exceeds that of the start.
double refine_row(const Grid& grid, const GptqBasis& basis, const float* w, int64_t group, int sweeps, uint8_t* codes,
                  GroupParams* params);
// The loss of a row whose error is given.
double quadratic_loss(const GptqBasis& basis, const float* error);

}  // namespace smoe
