// One row block of integer codes times rows of int8 activations, for K2 and K3: byte mma, whose int32 sums of a group
// are exact, then the arithmetic of the CPU (int8-inl.h), s_x * (s_w * (sum - zero * sum(x))) group after group in f32.
// Warps share K in whole groups, so that no group is summed in two roundings; groups of a whole row are added up as
// integers when the warps' sums meet (gather_warps).
#pragma once

#include "kernels/experts/byte_codes.cuh"
#include "kernels/experts/int8_args.h"
#include "kernels/experts/multiply_rows.cuh"

namespace smoe::cu {

// The rows as a matrix of this group reads them.
SMOE_DEVICE Int8Rows rows_of_group(const Int8Operand& x, int group) {
  Int8Rows rows = x.rows[0];
  SMOE_UNROLL
  for (int i = 1; i < kInt8Groups; ++i) {
    if (!x.dispatched && i < x.count && x.rows[i].group == group) rows = x.rows[i];
  }
  return rows;
}

// The f32 value of a group's exact sum, less the format's own zero point and then the matrix's.
SMOE_DEVICE float int8_value(int32_t sum, int zero_code, int32_t x_sum, bool symmetric, float zero) {
  const float value = static_cast<float>(sum - zero_code * x_sum);
  return symmetric ? value : fma(zero, -static_cast<float>(x_sum), value);
}

// Rows of an expert: column n of tile `tile` is row at[8 tile + n]. Columns past the expert's rows repeat its last one;
// nobody reads their sums.
template <int NT>
struct Int8Tiles {
  const uint8_t* codes[NT];  // of column lane / 4, this lane's bytes
  int32_t row[NT][2];        // of columns 2t and 2t + 1, which its sums belong to
  const U32x2* scales;
  int64_t groups;

  // row_of(n): the row of the expert's n-th.
  template <class RowOf>
  SMOE_DEVICE void start(const Int8Rows& x, int count, RowOf row_of) {
    scales = x.scales;
    groups = x.groups;
    const auto real = [&](int n) { return row_of(n < count ? n : count - 1); };
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      codes[tile] = x.codes;
      if (tile * 8 >= count) break;
      codes[tile] += off(real(tile * 8 + lane() / 4), x.stride) + 4 * (lane() % 4);
      SMOE_UNROLL
      for (int c = 0; c < 2; ++c) row[tile][c] = real(tile * 8 + lane() % 4 * 2 + c);
    }
  }
};

// acc[tile] = row block `block` times the rows, this warp's share of K: f32, or (groups of a whole row) the bits of
// int32 sums.
template <class Codes, int NT>
SMOE_DEVICE void multiply_int8(const AtomMatrix& matrix, int64_t block, int tiles, const Int8Tiles<NT>& x,
                               int64_t k_size, float (&acc)[NT][4]) {
  constexpr int kCols = Codes::kCols, kSteps = kCols / 32;
  const int64_t atoms = atoms_along(k_size, kCols);
  // The least common multiple of an atom, whose columns are a power of two, and a group.
  int64_t apart = 1;
  if (matrix.group > 0) {
    const int low = matrix.group & -matrix.group;
    apart = matrix.group / (low < kCols ? low : kCols);
  }
  const int64_t shares = (atoms + apart - 1) / apart, begin = shares * warp() / kExpertWarps * apart;
  int64_t end = shares * (warp() + 1) / kExpertWarps * apart;
  if (end > atoms) end = atoms;
  int32_t sum[NT][4] = {};
  if (begin < end) {
    GroupScales scales;
    scales.start(matrix, block, begin * kCols, atoms * kCols);
    const int units = matrix.group > 0 ? matrix.group / 32 : 1 << 30;
    int left = units;
    int64_t group = matrix.group > 0 ? begin * kCols / matrix.group : 0;
    const auto add_group = [&] {
      SMOE_UNROLL
      for (int tile = 0; tile < NT; ++tile) {
        if (tile >= tiles) break;
        SMOE_UNROLL
        for (int c = 0; c < 2; ++c) {
          const U32x2 pair = ldg(x.scales + off(x.row[tile][c], x.groups) + group);
          const float x_scale = bit_cast<float>(pair.x[0]);
          SMOE_UNROLL
          for (int half = 0; half < 2; ++half) {
            int32_t& mine = sum[tile][2 * half + c];
            const float value = int8_value(mine, Codes::kZeroCode, static_cast<int32_t>(pair.x[1]), scales.symmetric(),
                                           scales.zero(half));
            float& to = acc[tile][2 * half + c];
            to = fma(value * scales.scale(half), x_scale, to);
            mine = 0;
          }
        }
      }
    };
    const auto step_of = [&](const uint32_t(&a)[4], int64_t k) {
      SMOE_UNROLL
      for (int tile = 0; tile < NT; ++tile) {
        if (tile >= tiles) break;
        const uint32_t b[2] = {ldg(reinterpret_cast<const uint32_t*>(x.codes[tile] + k)),
                               ldg(reinterpret_cast<const uint32_t*>(x.codes[tile] + k + 16))};
        mma_u8s8(sum[tile], a, b);
      }
      if (--left == 0) {
        add_group();
        left = units;
        ++group;
        scales.next();
      }
    };
    stream_atoms(matrix.atoms + off(block, atoms) * 32 + lane(), begin, end, [&](int64_t i, const U32x4& atom) {
      uint32_t a[4];
      if constexpr (NT == 1) {
        SMOE_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          Codes::bytes(atom, step, a);
          step_of(a, i * kCols + 32 * step);
        }
      } else {  // as in multiply_codes
        U32x4 rest = atom;
        SMOE_UNROLL1
        for (int step = 0; step < kSteps; ++step) {
          Codes::bytes(rest, 0, a);
          step_of(a, i * kCols + 32 * step);
          advance_atom<kCols>(&rest);
        }
      }
    });
    if (matrix.group > 0 && left != units) add_group();
  }
  if (matrix.group > 0) return;
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) acc[tile][i] = bit_cast<float>(sum[tile][i]);
  }
}

template <int NT>
SMOE_DEVICE void multiply_int8_rows(const AtomMatrix& matrix, int64_t block, int tiles, const Int8Tiles<NT>& x,
                                    int64_t k_size, float (&acc)[NT][4]) {
  with_bytes(matrix.format,
             [&](auto codes) { multiply_int8<decltype(codes), NT>(matrix, block, tiles, x, k_size, acc); });
}

// A warp's sums, [NT][16 x 8] of it in shared memory.
template <int NT>
SMOE_DEVICE void share_sums(const float (&acc)[NT][4], int tiles, float* sums) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile >= tiles) break;
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Element at = c_element(lane(), 2 * half);
      sts(reinterpret_cast<U32x2*>(sums + tile * 128 + at.row * 8 + at.col),
          U32x2{{bit_cast<uint32_t>(acc[tile][2 * half]), bit_cast<uint32_t>(acc[tile][2 * half + 1])}});
    }
  }
}

// The output of row `row` (0..15) of a row block whose warps' sums lie `step` floats apart from `sums` on. pair: scale
// and sum of the activations, for groups of a whole row.
SMOE_DEVICE float gather_warps(const AtomMatrix& matrix, int64_t block, int row, const float* sums, int step,
                               const U32x2& pair) {
  if (matrix.group > 0) {
    float value = 0;
    for (int w = 0; w < kExpertWarps; ++w) value += lds(sums + w * step);
    return value;
  }
  int32_t sum = 0;
  for (int w = 0; w < kExpertWarps; ++w) sum += bit_cast<int32_t>(lds(sums + w * step));
  const int64_t at = block * kAtomRows + row;
  const bool symmetric = matrix.zeros == nullptr;
  const float zero = symmetric ? 0.0f : plane_value(matrix.zeros, matrix.scale_type, at);
  const float value = int8_value(sum, zero_code(matrix.format), static_cast<int32_t>(pair.x[1]), symmetric, zero);
  return fma(value * (plane_value(matrix.scales, matrix.scale_type, at) * matrix.mul), bit_cast<float>(pair.x[0]),
             0.0f);
}

}  // namespace smoe::cu
