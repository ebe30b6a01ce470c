// Row-wise passes of the decoder: over the pool when there is enough to do, else here.
#pragma once

#include <algorithm>

#include "core/thread_pool.h"
#include "decoder/decoder.h"

namespace smoe {

// Elements below which a pass over rows takes less time (about 4 us at a few elements per ns) than a fork is worth.
constexpr int64_t kInlineElements = 1 << 14;
constexpr int64_t kRowsPerItem = 8;

// body(row) for each row; `width` is the elements a row touches.
template <class F>
void for_rows(ThreadPool& pool, int64_t rows, int64_t width, const F& body) {
  if (rows * width <= kInlineElements) {
    for (int64_t row = 0; row < rows; ++row) body(row);
    return;
  }
  pool.parallel_for((rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item, int) {
    const int64_t end = std::min(rows, (item + 1) * kRowsPerItem);
    for (int64_t row = item * kRowsPerItem; row < end; ++row) body(row);
  });
}

inline void norm_row(const KernelTable& kernels, const NormWeights& norm, const float* x, int64_t width, float* out) {
  if (norm.kind == NormKind::Rms) {
    kernels.rms_norm(x, norm.weight.data(), norm.eps, width, out);
  } else {
    kernels.layer_norm(x, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), norm.eps, width, out);
  }
}

}  // namespace smoe
