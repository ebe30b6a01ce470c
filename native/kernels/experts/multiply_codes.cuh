// One row block of codes times up to 64 rows of activations: the loop that all formats of codes share. Codes become
// bf16 in registers, exactly; tensor cores add up each group, or piece of one, on its own, and the group's scale
// multiplies that f32 sum, so that nothing but f32 rounding is added whatever the scales are. Zero points, which may be
// fractional, take the sum of the piece's activations, from tensor cores as well: s * (sum(value * x) - zero * sum(x)).
#pragma once

#include "kernels/experts/atom_stream.cuh"
#include "kernels/experts/atoms.h"
#include "kernels/experts/dequant_f8.cuh"
#include "kernels/experts/dequant_mxfp4.cuh"
#include "kernels/experts/dequant_signs.cuh"
#include "kernels/experts/dequant_t2.cuh"
#include "kernels/experts/dequant_w4.cuh"
#include "kernels/experts/dequant_w8.cuh"
#include "kernels/experts/span_scales.cuh"
#include "kernels/experts/token_rows.cuh"

namespace smoe::cu {

// visit(codes) for a format of codes; nothing for others.
template <class Visit>
SMOE_DEVICE void with_codes(AtomFormat format, Visit visit) {
  switch (format) {
    case AtomFormat::W8:
      return visit(W8Codes{});
    case AtomFormat::W4:
      return visit(W4Codes{});
    case AtomFormat::T2:
      return visit(T2Codes{});
    case AtomFormat::F8:
      return visit(F8Codes{});
    case AtomFormat::Mxfp4:
      return visit(Mxfp4Codes{});
    default:
      return;
  }
}

// Columns of an atom that are decoded from words of their own, in every format but Signs.
constexpr int kUnitCols = 32;

// The words of an atom behind the first kWords become its first.
template <int kWords>
SMOE_DEVICE void drop_words(U32x4* atom) {
  SMOE_UNROLL
  for (int w = 0; w + kWords < 4; ++w) atom->x[w] = atom->x[w + kWords];
}
// The next 32 columns of an atom become its first.
template <int kCols>
SMOE_DEVICE void advance_atom(U32x4* atom) {
  drop_words<4 * kUnitCols / kCols>(atom);
}

// acc += 64 columns of codes times rows, span after span, each added up from zero and then scaled: a group that is
// longer is scaled in parts, which costs an fma of each sum and spares asking where groups end. fragment(j, a): the A
// registers of step j.
template <int kSpans, class Fragment, class Scales>
SMOE_DEVICE void multiply_spans(Fragment fragment, const uint32_t (*b)[2], const Scales& scales, float (&acc)[4]) {
  constexpr int kSteps = kHalfSteps / kSpans;
  const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
  SMOE_UNROLL
  for (int span = 0; span < kSpans; ++span) {
    const SpanScale s = scales.template span<kSpans>(span);
    float sum[4] = {};
    SMOE_UNROLL
    for (int j = 0; j < kSteps; ++j) {
      uint32_t a[4];
      fragment(span * kSteps + j, a);
      mma_bf16(sum, a, b[span * kSteps + j]);
    }
    if (!scales.symmetric()) {
      float x_sum[4] = {};
      SMOE_UNROLL
      for (int j = 0; j < kSteps; ++j) mma_bf16(x_sum, ones, b[span * kSteps + j]);
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) sum[i] = fma(-s.zero[i >> 1], x_sum[i], sum[i]);
    }
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) acc[i] = fma(s.scale[i >> 1], sum[i], acc[i]);
  }
}

// Zero points come with integers, whose own is not code 0.
template <class Codes>
using HalfScales = SpanScales<kHalfCols, Codes::kZeroCode != 0>;
template <class Codes, class Fragment>
SMOE_DEVICE void multiply_half(Fragment fragment, const uint32_t (*b)[2], const HalfScales<Codes>& scales,
                               float (&acc)[4]) {
  if (scales.spans() == 1) return multiply_spans<1>(fragment, b, scales, acc);
  if (Codes::kGroupCols == 32 || scales.spans() == 2) return multiply_spans<2>(fragment, b, scales, acc);
  if constexpr (Codes::kGroupCols == 16) multiply_spans<4>(fragment, b, scales, acc);
}

// acc[tile] += a slice of row block `block` times the rows. XP: parts of the rows. k_size and x_step are even. Where
// groups are cut is a function of the matrix and the slice: the bits do not depend on NT.
template <class Codes, int NT, int XP, class Stream>
SMOE_DEVICE void multiply_codes(Stream& stream, const AtomMatrix& matrix, int64_t block, const KSlice& slice,
                                const TokenRows<NT>& rows, int64_t x_step, int64_t k_size, float (&acc)[NT][4]) {
  // One tile's rows are read 128 columns ahead, each half when its registers are free.
  constexpr bool kOne = NT * XP == 1;
  constexpr int kCols = Codes::kCols, kSteps = kCols / 16, kAhead = kOne ? 2 : 1;
  constexpr int kBatchCols = kCols < kAhead * kHalfCols ? kAhead * kHalfCols : kCols, kAtoms = kBatchCols / kCols;
  if (slice.begin >= slice.end) return;
  const int begin = slice.begin * kCols, past = slice.end * kCols;
  const int stop = past < k_size ? past : static_cast<int>(k_size);
  // This lane's columns of what is to be multiplied next, and how many are left from there on.
  const bf16* x = rows.base + begin + 2 * (lane() % 4);
  int left = stop - begin - 2 * (lane() % 4);
  uint32_t ahead[kAhead][kHalfSteps][2];
  const auto load = [&](int tile, int part, int cols, int to = 0) {
    load_steps(x + rows.at[tile] + cols + (XP == 1 ? 0 : off(part, x_step)), left - cols, ahead[to]);
  };
  SMOE_UNROLL
  for (int i = 0; i < kAhead; ++i) load(0, 0, i * kHalfCols, i);
  HalfScales<Codes> scales(matrix, block, begin, slice.atoms * kCols);
  for_batches<kAtoms>(stream, slice.begin, slice.end, [&](int, const U32x4(&atoms)[kAtoms]) {
    if constexpr (kOne) {
      SMOE_UNROLL
      for (int half = 0; half < kBatchCols / kHalfCols; ++half) {
        scales.next();
        const auto fragment = [&](int j, uint32_t(&a)[4]) {
          const int step = half * kHalfSteps + j;
          Codes::fragment(atoms[step / kSteps], step % kSteps, a);
        };
        multiply_half<Codes>(fragment, ahead[half % kAhead], scales, acc[0]);
        load(0, 0, kAhead * kHalfCols, half % kAhead);
        x += kHalfCols;
        left -= kHalfCols;
      }
    } else {
      U32x4 rest = atoms[0];  // of an atom of 128 columns
      SMOE_UNROLL1
      for (int half = 0; half < kBatchCols / kHalfCols; ++half) {
        scales.next();
        uint32_t made[kHalfSteps][4];
        SMOE_UNROLL
        for (int j = 0; j < kHalfSteps; ++j) {
          Codes::fragment(kAtoms == 1 ? rest : atoms[j / kSteps], j % kSteps, made[j]);
        }
        const auto fragment = [&](int j, uint32_t(&a)[4]) {
          SMOE_UNROLL
          for (int i = 0; i < 4; ++i) a[i] = made[j][i];
        };
        SMOE_UNROLL
        for (int tile = 0; tile < NT; ++tile) {
          if (tile > 0 && tile * 8 >= rows.count) break;
          SMOE_UNROLL1
          for (int part = 0; part < XP; ++part) {
            uint32_t b[kHalfSteps][2];
            copy_batch(ahead[0], b);
            if (part + 1 < XP) {
              load(tile, part + 1, 0);
            } else if (tile + 1 < NT && (tile + 1) * 8 < rows.count) {
              load(tile + 1 < NT ? tile + 1 : 0, 0, 0);
            } else {
              load(0, 0, kHalfCols);
            }
            multiply_half<Codes>(fragment, b, scales, acc[tile]);
          }
        }
        x += kHalfCols;
        left -= kHalfCols;
        if constexpr (kBatchCols > kHalfCols) drop_words<4 * kHalfCols / kCols>(&rest);
      }
    }
  });
}

}  // namespace smoe::cu
