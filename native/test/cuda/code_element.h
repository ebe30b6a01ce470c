// The element that atoms of codes hold, computed on the host as the kernels do; written once more, from the layouts.
#pragma once

#include <cmath>

#include "formats/format_info.h"
#include "kernels/experts/code_atoms.h"

namespace smoe::cu::test {

// What a code of an atom stands for.
inline float code_value(AtomFormat format, int code) {
  switch (format) {
    case AtomFormat::W8:
      return static_cast<float>(code - 128);
    case AtomFormat::W4:
      return static_cast<float>(code - 8);
    case AtomFormat::T2:
      return static_cast<float>(code - 1);
    case AtomFormat::Signs:
      return static_cast<float>(2 * code - 1);
    case AtomFormat::F8:
      return to_float(e4m3{static_cast<uint8_t>(code)});
    default:
      return format_info(WeightFormat::W4C)->value(code, 0);
  }
}

inline float plane_element(const void* plane, ScaleType type, int64_t at) {
  if (type == ScaleType::E8m0) return std::ldexp(1.0f, static_cast<const uint8_t*>(plane)[at] - 127);
  if (type == ScaleType::F16) return to_float(static_cast<const f16*>(plane)[at]);
  return static_cast<const float*>(plane)[at];
}

// Of a matrix of `cols` columns whose pointers are the host's.
inline float code_element(const AtomMatrix& m, int64_t cols, int64_t row, int64_t col) {
  float value = 0;
  with_layout(m.format, [&](auto layout) {
    using Layout = decltype(layout);
    const int64_t block = row / kAtomRows, atom = block * atoms_along(cols, Layout::kCols) + col / Layout::kCols;
    const CodePlace at = Layout::place(static_cast<int>(row % kAtomRows), static_cast<int>(col % Layout::kCols));
    const uint32_t word = m.atoms[atom * 32 + at.lane].x[at.word];
    int code = 0;
    for (int bit = 0; bit < Layout::kBits; ++bit) {
      if ((word & Layout::spread(1u << bit, at.slot)) != 0) code |= 1 << bit;
    }
    const int64_t group = m.group > 0 ? col / m.group : 0;
    const int64_t index = (block * atom_groups(m.format, cols, m.group) + group) * kAtomRows + row % kAtomRows;
    value = code_value(m.format, code);
    if (m.zeros != nullptr) value -= plane_element(m.zeros, m.scale_type, index);
    value *= plane_element(m.scales, m.scale_type, index) * m.mul;
  });
  return value;
}

}  // namespace smoe::cu::test
