// From tile results to activated hidden units, written straight into the packed form that the down projection
// reads, or as rows where packing needs a whole row's maximum first.
#pragma once

#include "kernels/experts/pack-inl.h"
#include "kernels/isa/math-inl.h"
#include "kernels/kernel_table.h"

namespace {

inline void store_units(V* units, int rows, int row, int m, int count, int64_t unit, void* x, smoe::UnitForm form,
                        int64_t stride) {
  float* base = static_cast<float*>(x);
  if (form == smoe::UnitForm::Rows) {
    for (int i = 0; i < rows; ++i) v_store_n(base + (row + i) * stride + unit, units[i], count);
    return;
  }
  if (form == smoe::UnitForm::F32) {
    interleave(units, rows, count, m, base + unit * m + row);
    return;
  }
  for (int i = 0; i < rows; ++i) {
    if (count % 2 != 0) {  // the padding half of the last pair is zero whatever the tile held
      float lanes[16];
      v_store(lanes, units[i]);
      lanes[count] = 0.0f;
      units[i] = v_load(lanes);
    }
    units[i] = v_pack_pairs(units[i], v_zero());
  }
  interleave(units, rows, (count + 1) / 2, m, base + unit / 2 * m + row);
}

inline V load_bias(const float* bias, int count) { return bias != nullptr ? v_load_n(bias, count) : v_zero(); }

void k_glu(const float* tile, const float* bias_gate, const float* bias_up, smoe::Activation act, int m, int count,
           int64_t unit, void* x, smoe::UnitForm form, int64_t stride) {
  const V gate_bias = load_bias(bias_gate, count), up_bias = load_bias(bias_up, count);
  for (int row = 0; row < m; row += 4) {
    const int rows = m - row < 4 ? m - row : 4;
    V units[4];
    for (int i = 0; i < rows; ++i) {
      const float* result = tile + (row + i) * smoe::kOutStride;
      const V gate = v_add(v_load(result), gate_bias), up = v_add(v_load(result + 16), up_bias);
      units[i] = v_mul(v_activate(act, gate), up);
    }
    store_units(units, rows, row, m, count, unit, x, form, stride);
  }
}

void k_mlp(const float* tile, const float* bias, smoe::Activation act, int m, int count, int64_t unit, void* x,
           smoe::UnitForm form, int64_t stride) {
  const V unit_bias = load_bias(bias, count);
  for (int row = 0; row < m; row += 4) {
    const int rows = m - row < 4 ? m - row : 4;
    V units[4];
    for (int i = 0; i < rows; ++i) {
      units[i] = v_activate(act, v_add(v_load(tile + (row + i) * smoe::kOutStride), unit_bias));
    }
    store_units(units, rows, row, m, count, unit, x, form, stride);
  }
}

}  // namespace
