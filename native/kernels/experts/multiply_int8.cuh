// One row block of integer codes times rows of int8 activations, for K2 and K3: byte mma, whose int32 sums of a group
// are exact, then the arithmetic of the CPU (int8-inl.h), s_x * (s_w * (sum - zero * sum(x))) group after group in f32.
// Slices of K are of whole groups, so that no group is summed in two roundings; groups of a whole row are added up as
// integers when the slices' sums meet (gather_slices).
#pragma once

#include "kernels/experts/byte_codes.cuh"
#include "kernels/experts/decode_block.cuh"
#include "kernels/experts/int8_args.h"
#include "kernels/experts/multiply_rows.cuh"
#include "kernels/experts/span_scales.cuh"

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

// The scales and sums that the rows' groups have: group after group, those of columns 2t and 2t + 1.
template <int NT>
SMOE_DEVICE U32x2 int8_pair(const Int8Tiles<NT>& x, int tile, int c, int64_t group) {
  return ldg(x.scales + off(x.row[tile][c], x.groups) + group);
}

// acc[tile] = a slice of row block `block` times the rows: f32, or (groups of a whole row) the bits of int32 sums.
template <class Codes, int NT, class Stream>
SMOE_DEVICE void multiply_int8(Stream& stream, const AtomMatrix& matrix, int64_t block, const KSlice& slice, int tiles,
                               const Int8Tiles<NT>& x, float (&acc)[NT][4]) {
  // Bytes are read ahead: of one tile 128 columns, each step's when its registers are free; of several one step.
  constexpr int kCols = Codes::kCols, kSteps = kCols / 32, kAhead = NT == 1 ? 4 : 1;
  constexpr int kAtoms = NT == 1 ? kAhead / kSteps : 1;
  int32_t sum[NT][4] = {};
  if (slice.begin < slice.end) {
    const int begin = slice.begin * kCols, stop = slice.end * kCols;
    uint32_t ahead[NT * kAhead][2];
    const auto load = [&](int tile, int k, uint32_t(&b)[2]) {
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        b[half] = k < stop ? ldg(reinterpret_cast<const uint32_t*>(x.codes[tile] + k + 16 * half)) : 0u;
      }
    };
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile > 0 && tile >= tiles) break;
      SMOE_UNROLL
      for (int j = 0; j < kAhead; ++j) load(tile, begin + 32 * j, ahead[tile * kAhead + j]);
    }
    SpanScales<32> scales(matrix, block, begin, slice.atoms * kCols);
    int64_t group = matrix.group > 0 ? begin / matrix.group : 0;
    U32x2 next[2];  // of the group under way, where one tile leaves room
    const auto load_pairs = [&] {
      if (NT > 1 || matrix.group <= 0) return;
      next[0] = int8_pair(x, 0, 0, group);
      next[1] = int8_pair(x, 0, 1, group);
    };
    load_pairs();
    const auto add_group = [&] {
      const SpanScale s = scales.template span<1>(0);
      SMOE_UNROLL
      for (int tile = 0; tile < NT; ++tile) {
        if (tile > 0 && tile >= tiles) break;
        SMOE_UNROLL
        for (int c = 0; c < 2; ++c) {
          const U32x2 pair = NT == 1 ? next[c] : int8_pair(x, tile, c, group);
          const float x_scale = bit_cast<float>(pair.x[0]);
          SMOE_UNROLL
          for (int half = 0; half < 2; ++half) {
            int32_t& mine = sum[tile][2 * half + c];
            const float value =
                int8_value(mine, Codes::kZeroCode, static_cast<int32_t>(pair.x[1]), scales.symmetric(), s.zero[half]);
            float& to = acc[tile][2 * half + c];
            to = fma(value * s.scale[half], x_scale, to);
            mine = 0;
          }
        }
      }
    };
    for_batches<kAtoms>(stream, slice.begin, slice.end, [&](int first, const U32x4(&atoms)[kAtoms]) {
      const auto multiply = [&](const U32x4& atom, int step, int k, int at) {
        scales.next();
        uint32_t a[4];
        Codes::bytes(atom, step, a);
        SMOE_UNROLL
        for (int tile = 0; tile < NT; ++tile) {
          if (tile > 0 && tile >= tiles) break;
          uint32_t(&b)[2] = ahead[tile * kAhead + at];
          mma_u8s8(sum[tile], a, b);
          load(tile, k + 32 * kAhead, b);
        }
        if (scales.ends()) {
          add_group();
          ++group;
          if (k + 32 < stop) load_pairs();
        }
      };
      if constexpr (NT == 1) {
        SMOE_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (i > 0 && first + i / kSteps >= slice.end) break;
          multiply(atoms[i / kSteps], i % kSteps, first * kCols + 32 * i, i);
        }
      } else {  // one copy of the code, which is long enough
        U32x4 rest = atoms[0];
        SMOE_UNROLL1
        for (int i = 0; i < kSteps; ++i) {
          multiply(rest, 0, first * kCols + 32 * i, 0);
          advance_atom<kCols>(&rest);
        }
      }
    });
    if (matrix.group > 0 && !scales.ends()) add_group();
  }
  if (matrix.group > 0) return;
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) acc[tile][i] = bit_cast<float>(sum[tile][i]);
  }
}

template <int NT, class Stream>
SMOE_DEVICE void multiply_int8_rows(Stream& stream, const AtomMatrix& matrix, int64_t block, int slice, int slices,
                                    int apart, int tiles, const Int8Tiles<NT>& x, int64_t k_size, float (&acc)[NT][4]) {
  with_bytes(matrix.format, [&](auto codes) {
    using Codes = decltype(codes);
    multiply_int8<Codes, NT>(stream, matrix, block, k_slice(k_size, Codes::kCols, slice, slices, apart), tiles, x, acc);
  });
}

// The output of row `row` (0..15) of a row block whose slices' sums lie `step` floats apart from `sums` on. pair: scale
// and sum of the activations, for groups of a whole row.
SMOE_DEVICE float gather_slices(const AtomMatrix& matrix, int64_t block, int row, const float* sums, int slices,
                                int step, const U32x2& pair) {
  if (matrix.group > 0) {
    float value = 0;
    for (int s = 0; s < slices; ++s) value += lds(sums + s * step);
    return value;
  }
  int32_t sum = 0;
  for (int s = 0; s < slices; ++s) sum += bit_cast<int32_t>(lds(sums + s * step));
  const int64_t at = block * kAtomRows + row;
  const bool symmetric = matrix.zeros == nullptr;
  const float zero = symmetric ? 0.0f : plane_value(matrix.zeros, matrix.scale_type, at);
  const float value = int8_value(sum, zero_code(matrix.format), static_cast<int32_t>(pair.x[1]), symmetric, zero);
  return fma(value * (plane_value(matrix.scales, matrix.scale_type, at) * matrix.mul), bit_cast<float>(pair.x[0]),
             0.0f);
}

}  // namespace smoe::cu
