// A slice of one row block of a matrix, in whatever format it is, times the rows of up to 64 tokens: the inner loop of
// K2 and K3.
#pragma once

#include "kernels/experts/multiply_codes.cuh"

namespace smoe::cu {

// An expert's entry, in registers.
template <bool bf16_only>
SMOE_DEVICE AtomMatrix load_matrix(const AtomMatrix* matrix) {
  AtomMatrix m;
  m.atoms = ldg(&matrix->atoms);
  if constexpr (!bf16_only) {
    m.format = ldg(&matrix->format);
    m.part_step = ldg(&matrix->part_step);
    m.scales = ldg(&matrix->scales);
    m.zeros = ldg(&matrix->zeros);
    m.scale_type = ldg(&matrix->scale_type);
    m.group = ldg(&matrix->group);
    m.mul = ldg(&matrix->mul);
  }
  return m;
}

// acc[tile] += one atom times the rows. With WP weight and XP activation parts, the products of parts p and q with
// p + q <= 2, large ones first; the others lie below 2^-23 of the whole (as in router_gemm.cuh).
template <int NT, int WP, int XP>
SMOE_DEVICE void multiply_atom(const U32x4 (&a)[WP], const TokenRows<NT>& rows, int64_t x_step, int64_t k,
                               int64_t k_size, float (&acc)[NT][4]) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile * 8 >= rows.count) break;
    const bf16* const row = rows.row(tile);
    uint32_t b[XP][2];
    SMOE_UNROLL
    for (int q = 0; q < XP; ++q) {
      b[q][0] = load_pair(row, off(q, x_step) + k, k < k_size);
      b[q][1] = load_pair(row, off(q, x_step) + k + 8, k + 8 < k_size);
    }
    SMOE_UNROLL
    for (int sum = 0; sum <= 2; ++sum) {
      SMOE_UNROLL
      for (int p = 0; p <= sum; ++p) {
        if (p < WP && sum - p < XP) mma_bf16(acc[tile], a[p < WP ? p : 0].x, b[sum - p < XP ? sum - p : 0]);
      }
    }
  }
}

// The loop for bf16, a batch of the stream at a time. Rows are read a batch ahead, because a row that no cache of the
// SM holds yet (every row of h, in K3) takes as long as 600 clocks, in which the warp would wait at each atom.
template <int NT, class Stream>
SMOE_DEVICE void multiply_bf16(Stream& stream, const KSlice& slice, const TokenRows<NT>& rows, int64_t k_size,
                               float (&acc)[NT][4]) {
  constexpr int kBatch = Stream::kAtoms;
  static_assert(kBatch == batch_steps(NT), "one batch of rows per batch of atoms");
  uint32_t ahead[kBatch][2], b[kBatch][2];
  load_batch(rows, 0, slice.begin, k_size, ahead);
  SMOE_UNROLL1
  for (int first = slice.begin; first < slice.end; first += kBatch) {
    const int here = slice.end - first;  // atoms left
    const U32x4* const atoms = stream.take();
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile > 0 && tile * 8 >= rows.count) break;
      copy_batch(ahead, b);
      if (tile + 1 < NT && (tile + 1) * 8 < rows.count) {
        load_batch(rows, tile + 1 < NT ? tile + 1 : 0, first, k_size, ahead);
      } else if (here > kBatch) {
        load_batch(rows, 0, first + kBatch, k_size, ahead);
      }
      if (here >= kBatch) {  // without a branch between them the loads go first
        U32x4 a[kBatch];
        SMOE_UNROLL
        for (int j = 0; j < kBatch; ++j) a[j] = lds(atoms + j * 32);
        SMOE_UNROLL
        for (int j = 0; j < kBatch; ++j) mma_bf16(acc[tile], a[j].x, b[j]);
      } else {
        SMOE_UNROLL
        for (int j = 0; j < kBatch; ++j) {
          if (j >= here) break;
          mma_bf16(acc[tile], lds(atoms + j * 32).x, b[j]);
        }
      }
    }
    stream.give();
  }
}

// acc[tile] += the slice of row block `block` times the rows. k_size and x.step are even.
template <int NT, bool bf16_only, int XP, class Stream>
SMOE_DEVICE void multiply_rows(Stream& stream, const AtomMatrix& matrix, int64_t block, int slice, int slices,
                               const TokenRows<NT>& rows, const Planes& x, int64_t k_size, float (&acc)[NT][4]) {
  const int64_t x_step = XP == 1 ? 0 : x.step;
  if (bf16_only || matrix.format == AtomFormat::Bf16) {
    const KSlice part = k_slice(k_size, kAtomCols, slice, slices);
    if constexpr (XP == 1) {
      multiply_bf16(stream, part, rows, k_size, acc);
    } else {
      for_atoms(stream, part.begin, part.end, [&](int i, const U32x4& atom) {
        multiply_atom<NT, 1, XP>({atom}, rows, x_step, i * kAtomCols + 2 * (lane() % 4), k_size, acc);
      });
    }
    return;
  }
  if constexpr (!bf16_only) {
    if (matrix.format == AtomFormat::Bf16x3) {
      const KSlice part = k_slice(k_size, kAtomCols, slice, slices);
      const U32x4* const atoms = matrix.atoms + off(block, part.atoms) * 32 + lane();
      for (int i = part.begin; i < part.end; ++i) {
        U32x4 a[3];
        SMOE_UNROLL
        for (int p = 0; p < 3; ++p) a[p] = ldg_stream(atoms + i * 32 + off(p, matrix.part_step));
        multiply_atom<NT, 3, XP>(a, rows, x_step, i * kAtomCols + 2 * (lane() % 4), k_size, acc);
      }
      return;
    }
    with_codes(matrix.format, [&](auto codes) {
      using Codes = decltype(codes);
      multiply_codes<Codes, NT, XP>(stream, matrix, block, k_slice(k_size, Codes::kCols, slice, slices), rows, x_step,
                                    k_size, acc);
    });
  }
}

}  // namespace smoe::cu
