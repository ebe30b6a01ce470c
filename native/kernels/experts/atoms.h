// Packed weights of the CUDA kernels: 512-byte atoms in the order of mma A fragments (specs/cuda-kernels.md 2.1). A
// bf16 atom is 16 rows x 16 columns; lane l owns bytes [16 l, 16 l + 16), which are its registers a0..a3. Memory order
// is [expert][row block of 16][atom along K]. Rows and columns past the matrix are zero. Atoms of codes: code_atoms.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/fragments.h"

namespace smoe::cu {

constexpr int kAtomRows = 16, kAtomCols = 16, kAtomElements = kAtomRows * kAtomCols;

SMOE_HD constexpr int64_t atoms_along(int64_t k, int cols = kAtomCols) { return (k + cols - 1) / cols; }

// Gate and up rows of a GLU expert share a block, 8 + 8: accumulator rows g and g + 8 of a lane are then gate and up of
// one feature.
SMOE_HD constexpr int64_t glu_row_blocks(int64_t width) { return (width + 7) / 8; }
SMOE_HD constexpr int64_t row_blocks(int64_t rows) { return (rows + kAtomRows - 1) / kAtomRows; }

// element(row, k) of one row block, for all its atoms. Pure; out has atoms_along(k) * 256 elements.
template <class Element>
void pack_row_block(int64_t k, Element element, bf16* out) {
  for (int64_t atom = 0; atom < atoms_along(k); ++atom) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const auto at = a16_element(lane, i / 2, i % 2);
        const int64_t col = atom * kAtomCols + at.col;
        *out++ = col < k ? element(at.row, col) : bf16{0};
      }
    }
  }
}

// Part p of a value as AtomFormat::Bf16x3 and Planes of three hold it: the bf16 nearest to what the parts before it
// left.
SMOE_HD bf16 bf16_part(float value, int part) {
  for (int p = 0; p < part; ++p) value -= to_float(to_bf16(value));
  return to_bf16(value);
}

// U32x4 elements of one part of a packed matrix: part_step where the parts of a matrix lie side by side.
inline int64_t packed_words(int64_t row_blocks, int64_t cols) { return row_blocks * atoms_along(cols) * 32; }

// element(block, row of the block, col) of every row block; appended to `out`.
template <class Element>
void pack_blocks(int64_t blocks, int64_t cols, Element element, std::vector<bf16>* out) {
  for (int64_t block = 0; block < blocks; ++block) {
    const size_t begin = out->size();
    out->resize(begin + static_cast<size_t>(atoms_along(cols) * kAtomElements));
    pack_row_block(cols, [&](int row, int64_t col) { return element(block, row, col); }, out->data() + begin);
  }
}

// A plain matrix of `parts` parts (1: Bf16, 3: Bf16x3), one after the other. value(row, col) is an f32.
template <class Value>
void pack_rows(int64_t rows, int64_t cols, int parts, Value value, std::vector<bf16>* out) {
  for (int part = 0; part < parts; ++part) {
    const auto element = [&](int64_t block, int row, int64_t col) {
      const int64_t at = block * kAtomRows + row;
      return at < rows ? bf16_part(value(at, col), part) : bf16{0};
    };
    pack_blocks(row_blocks(rows), cols, element, out);
  }
}

// The same for gate and up, [width, hidden] each, by 8 + 8 rows.
template <class Gate, class Up>
void pack_glu_rows(int64_t width, int64_t hidden, int parts, Gate gate, Up up, std::vector<bf16>* out) {
  for (int part = 0; part < parts; ++part) {
    const auto element = [&](int64_t block, int row, int64_t col) {
      const int64_t feature = block * 8 + row % 8;
      return feature < width ? bf16_part(row < 8 ? gate(feature, col) : up(feature, col), part) : bf16{0};
    };
    pack_blocks(glu_row_blocks(width), hidden, element, out);
  }
}

// One expert in bf16. gate, up: [width, hidden]; appended to `out`.
inline void pack_gate_up(const bf16* gate, const bf16* up, int64_t width, int64_t hidden, std::vector<bf16>* out) {
  const auto element = [&](int64_t block, int row, int64_t col) {
    const int64_t feature = block * 8 + row % 8;
    return feature < width ? (row < 8 ? gate : up)[feature * hidden + col] : bf16{0};
  };
  pack_blocks(glu_row_blocks(width), hidden, element, out);
}

// down: [hidden, width]; any other plain matrix in bf16 too.
inline void pack_down(const bf16* down, int64_t hidden, int64_t width, std::vector<bf16>* out) {
  const auto element = [&](int64_t block, int row, int64_t col) {
    const int64_t feature = block * kAtomRows + row;
    return feature < hidden ? down[feature * width + col] : bf16{0};
  };
  pack_blocks(row_blocks(hidden), width, element, out);
}

}  // namespace smoe::cu
