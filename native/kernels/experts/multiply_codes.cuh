// One row block of codes times up to 64 rows of activations: the loop that all formats of codes share. Codes become
// bf16 in registers, exactly; tensor cores add up each group on its own, and the group's scale multiplies that f32 sum,
// so that nothing but f32 rounding is added whatever the scales are. Zero points, which may be fractional, take the sum
// of the group's activations, from tensor cores as well: s * (sum(value * x) - zero * sum(x)).
#pragma once

#include "kernels/experts/atom_stream.cuh"
#include "kernels/experts/atoms.h"
#include "kernels/experts/dequant_f8.cuh"
#include "kernels/experts/dequant_mxfp4.cuh"
#include "kernels/experts/dequant_t2.cuh"
#include "kernels/experts/dequant_w4.cuh"
#include "kernels/experts/dequant_w8.cuh"
#include "kernels/experts/expert_args.h"
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

SMOE_DEVICE float plane_value(const void* plane, ScaleType type, int64_t at) {
  if (type == ScaleType::F32) return ldg(static_cast<const float*>(plane) + at);
  if (type == ScaleType::F16) return to_float(ldg(static_cast<const f16*>(plane) + at));
  const uint32_t exponent = ldg(static_cast<const uint8_t*>(plane) + at);
  return bit_cast<float>(exponent == 0 ? 0x00400000u : exponent << 23);  // 2^-127 is subnormal
}

// The scales, and zero points, that a lane needs of one row block, group after group: those of rows g and g + 8.
class GroupScales {
 public:
  // From column `col` of a block of `padded` columns on.
  SMOE_DEVICE void start(const AtomMatrix& matrix, int64_t block, int64_t col, int64_t padded) {
    scales_ = matrix.scales;
    zeros_ = matrix.zeros;
    type_ = matrix.scale_type;
    mul_ = matrix.mul;
    const int64_t groups = matrix.group > 0 ? (padded + matrix.group - 1) / matrix.group : 1;
    const int64_t group = matrix.group > 0 ? col / matrix.group : 0;
    at_ = (off(block, groups) + group) * kAtomRows + lane() / 4;
    left_ = groups - group;
    load();
  }
  SMOE_DEVICE bool symmetric() const { return zeros_ == nullptr; }
  // Of row g (half 0) or g + 8.
  SMOE_DEVICE float scale(int half) const { return scale_[half]; }
  SMOE_DEVICE float zero(int half) const { return zero_[half]; }
  // acc += the sum of this group, scaled; the sum becomes zero.
  SMOE_DEVICE void add(float (&sum)[4], const float (&x_sum)[4], float (&acc)[4]) const {
    SMOE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float value = symmetric() ? sum[i] : fma(-zero_[i >> 1], x_sum[i], sum[i]);
      acc[i] = fma(scale_[i >> 1], value, acc[i]);
      sum[i] = 0;
    }
  }
  // Loads now what is needed at the end of the next group.
  SMOE_DEVICE void next() {
    if (--left_ <= 0) return;
    at_ += kAtomRows;
    load();
  }

 private:
  SMOE_DEVICE void load() {
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      scale_[half] = plane_value(scales_, type_, at_ + 8 * half) * mul_;
      if (!symmetric()) zero_[half] = plane_value(zeros_, type_, at_ + 8 * half);
    }
  }

  const void *scales_ = nullptr, *zeros_ = nullptr;
  ScaleType type_ = ScaleType::F32;
  float mul_ = 1;
  int64_t at_ = 0, left_ = 0;
  float scale_[2] = {0, 0}, zero_[2] = {0, 0};
};

// Columns of an atom that are decoded from words of their own, in every format.
constexpr int kUnitCols = 32;

// The next 32 columns of an atom become its first.
template <int kCols>
SMOE_DEVICE void advance_atom(U32x4* atom) {
  constexpr int kWords = 4 * kUnitCols / kCols;
  SMOE_UNROLL
  for (int w = 0; w + kWords < 4; ++w) atom->x[w] = atom->x[w + kWords];
}

SMOE_DEVICE void clear(float (&sum)[4]) {
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) sum[i] = 0;
}

// sum[tile] += one atom from column `k0` on times the rows, step by step; x_sum[tile] += the sums of the rows' parts.
template <class Codes, int NT, int XP>
SMOE_DEVICE void multiply_step(const U32x4& atom, int step, int64_t k0, bool symmetric, const TokenRows<NT>& rows,
                               int64_t x_step, int64_t k_size, float (&sum)[NT][4], float (&x_sum)[NT][4]) {
  const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
  uint32_t a[4];
  Codes::fragment(atom, step, a);
  const int64_t k = k0 + 16 * step + 2 * (lane() % 4);
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile * 8 >= rows.count) break;
    SMOE_UNROLL
    for (int q = 0; q < XP; ++q) {
      const int64_t at = off(q, x_step) + k;
      const uint32_t b[2] = {load_pair(rows.row(tile), at, k < k_size),
                             load_pair(rows.row(tile), at + 8, k + 8 < k_size)};
      mma_bf16(sum[tile], a, b);
      if (!symmetric) mma_bf16(x_sum[tile], ones, b);
    }
  }
}

// acc[tile] += a slice of row block `block` times the rows. XP: parts of the rows. k_size and x_step are even.
template <class Codes, int NT, int XP, class Stream>
SMOE_DEVICE void multiply_codes(Stream& stream, const AtomMatrix& matrix, int64_t block, const KSlice& slice,
                                const TokenRows<NT>& rows, int64_t x_step, int64_t k_size, float (&acc)[NT][4]) {
  constexpr int kCols = Codes::kCols, kSteps = kCols / 16, kGroupSteps = Codes::kGroupCols / 16;
  if (slice.begin >= slice.end) return;
  const int begin = slice.begin * kCols;
  GroupScales scales;
  scales.start(matrix, block, begin, int64_t{slice.atoms} * kCols);
  // Units of kGroupCols columns in a group, and to the end of the first one.
  const int units = matrix.group > 0 ? matrix.group / Codes::kGroupCols : 1 << 30;
  int left = matrix.group > 0 ? units - begin % matrix.group / Codes::kGroupCols : units;
  float sum[NT][4] = {}, x_sum[NT][4] = {};
  const auto add_group = [&] {
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      scales.add(sum[tile], x_sum[tile], acc[tile]);
      clear(x_sum[tile]);
    }
  };
  const auto end_step = [&](int step) {
    if ((step + 1) % kGroupSteps == 0 && --left == 0) {
      add_group();
      left = units;
      scales.next();
    }
  };
  if constexpr (NT * XP == 1) {
    // As multiply_bf16: rows are read 128 columns ahead.
    const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
    constexpr int kBatchSteps = batch_steps(NT), kBatchAtoms = kBatchSteps / kSteps;
    uint32_t ahead[kBatchSteps][2], b[kBatchSteps][2];
    load_batch(rows, 0, slice.begin * kSteps, k_size, ahead);
    SMOE_UNROLL1
    for (int batch = slice.begin; batch < slice.end; batch += Stream::kAtoms) {
      const U32x4* atoms = stream.take();
      const int end = slice.end - batch < Stream::kAtoms ? slice.end : batch + Stream::kAtoms;
      SMOE_UNROLL1
      for (int first = batch; first < end; first += kBatchAtoms) {
        copy_batch(ahead, b);
        if (first + kBatchAtoms < slice.end) load_batch(rows, 0, (first + kBatchAtoms) * kSteps, k_size, ahead);
        SMOE_UNROLL
        for (int i = 0; i < kBatchAtoms; ++i) {
          if (first + i >= end) break;
          const U32x4 atom = lds(atoms);
          atoms += 32;
          SMOE_UNROLL
          for (int step = 0; step < kSteps; ++step) {
            uint32_t a[4];
            Codes::fragment(atom, step, a);
            mma_bf16(sum[0], a, b[i * kSteps + step]);
            if (!scales.symmetric()) mma_bf16(x_sum[0], ones, b[i * kSteps + step]);
            end_step(step);
          }
        }
      }
      stream.give();
    }
  } else {
    for_atoms(stream, slice.begin, slice.end, [&](int i, const U32x4& atom) {
      // Three parts are for exactness: a quarter of the code, and of nvcc's time, for a few moves.
      U32x4 rest = atom;
      SMOE_UNROLL1
      for (int unit = 0; unit < kCols / kUnitCols; ++unit) {
        SMOE_UNROLL
        for (int step = 0; step < kUnitCols / 16; ++step) {
          multiply_step<Codes, NT, XP>(rest, step, i * kCols + unit * kUnitCols, scales.symmetric(), rows, x_step,
                                       k_size, sum, x_sum);
          end_step(step);
        }
        advance_atom<kCols>(&rest);
      }
    });
  }
  if (left != units) add_group();
}

}  // namespace smoe::cu
