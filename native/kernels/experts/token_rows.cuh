// The rows that a warp of the decode kernels multiplies, and the slice of K that it takes of them.
#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms.h"

namespace smoe::cu {

// Atoms of a row block along K, and those of one of its slices: whole multiples of `apart` atoms; 0: of all of them.
struct KSlice {
  int atoms, begin, end;
};
SMOE_DEVICE KSlice k_slice(int64_t k, int cols, int slice, int slices, int apart = 1) {
  const int atoms = static_cast<int>(atoms_along(k, cols)), each = apart == 0 ? atoms : apart;
  const int shares = (atoms + each - 1) / each, end = shares * (slice + 1) / slices * each;
  return {atoms, shares * slice / slices * each, end < atoms ? end : atoms};
}

// Rows of activations as B operands: column g = lane / 4 of tile t is row 8 t + g of `count`. Columns past the last row
// repeat it; nobody reads their sums. Offsets have 32 bits: 64 tokens of at most 32 slots.
template <int NT>
struct TokenRows {
  const bf16* base = nullptr;
  uint32_t at[NT] = {};
  int count = 0;

  // row_of(n): offset of row n, in elements. At least one row.
  template <class RowOf>
  SMOE_DEVICE void start(const bf16* data, int rows, RowOf row_of) {
    base = data;
    count = rows;
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile * 8 >= rows) break;
      const int n = tile * 8 + lane() / 4;
      at[tile] = row_of(n < rows ? n : rows - 1);
    }
  }
  SMOE_DEVICE const bf16* row(int tile) const { return base + at[tile]; }
};

// Columns k and k + 1 of a row; zeros where nothing is, which may not come from memory: 0 times NaN is NaN.
SMOE_DEVICE uint32_t load_pair(const bf16* row, int64_t at, bool real) {
  return real ? ldg(reinterpret_cast<const uint32_t*>(row + at)) : 0u;
}

// k16 steps whose B registers are read together: twice 16 registers, or 8 where sums of many tiles need the room.
SMOE_HD constexpr int batch_steps(int tiles) { return tiles <= 4 ? 8 : 4; }

// B registers of kSteps steps from this lane's columns at `from` on, of which `left` are real.
template <int kSteps>
SMOE_DEVICE void load_steps(const bf16* from, int left, uint32_t (&b)[kSteps][2]) {
  if (left > 16 * kSteps - 8) {
    SMOE_UNROLL
    for (int j = 0; j < kSteps; ++j) {
      b[j][0] = load_pair(from, 16 * j, true);
      b[j][1] = load_pair(from, 16 * j + 8, true);
    }
  } else {
    SMOE_UNROLL
    for (int j = 0; j < kSteps; ++j) {
      b[j][0] = load_pair(from, 16 * j, 16 * j < left);
      b[j][1] = load_pair(from, 16 * j + 8, 16 * j + 8 < left);
    }
  }
}

// The same from step `step` of a tile's rows on.
template <int kSteps, int NT>
SMOE_DEVICE void load_batch(const TokenRows<NT>& rows, int tile, int step, int64_t k_size, uint32_t (&b)[kSteps][2]) {
  const int k = step * 16 + 2 * (lane() % 4);
  load_steps(rows.row(tile) + k, static_cast<int>(k_size) - k, b);
}

template <int kSteps>
SMOE_DEVICE void copy_batch(const uint32_t (&from)[kSteps][2], uint32_t (&to)[kSteps][2]) {
  SMOE_UNROLL
  for (int j = 0; j < kSteps; ++j) {
    to[j][0] = from[j][0];
    to[j][1] = from[j][1];
  }
}

}  // namespace smoe::cu
