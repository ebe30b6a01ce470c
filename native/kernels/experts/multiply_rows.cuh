// One row block of an expert's matrix, in whatever format it is, times the rows of up to 64 tokens: the inner loop of
// K2 and K3, whose warps share K.
#pragma once

#include "kernels/experts/multiply_codes.cuh"

namespace smoe::cu {

constexpr int kExpertWarps = 8, kExpertThreads = 32 * kExpertWarps;

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
SMOE_DEVICE void multiply_atom(const U32x4 (&a)[WP], int tiles, const bf16* const (&row)[NT], int64_t x_step, int64_t k,
                               int64_t k_size, float (&acc)[NT][4]) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile >= tiles) break;
    const bool real = row[tile] != nullptr;
    uint32_t b[XP][2];
    SMOE_UNROLL
    for (int q = 0; q < XP; ++q) {
      b[q][0] = load_pair(row[tile], off(q, x_step) + k, real && k < k_size);
      b[q][1] = load_pair(row[tile], off(q, x_step) + k + 8, real && k + 8 < k_size);
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

template <int NT, int WP, int XP>
SMOE_DEVICE void multiply_parts(const AtomMatrix& matrix, int64_t block, int part, int parts, int tiles,
                                const bf16* const (&row)[NT], int64_t x_step, int64_t k_size, float (&acc)[NT][4]) {
  const int64_t count = atoms_along(k_size), begin = count * part / parts, end = count * (part + 1) / parts;
  const U32x4* const atoms = matrix.atoms + off(block, count) * 32 + lane();
  const int64_t k0 = 2 * (lane() % 4);
  if constexpr (WP == 1) {
    stream_atoms(atoms, begin, end, [&](int64_t i, const U32x4& atom) {
      multiply_atom<NT, 1, XP>({atom}, tiles, row, x_step, i * kAtomCols + k0, k_size, acc);
    });
  } else {
    for (int64_t i = begin; i < end; ++i) {
      U32x4 a[WP];
      SMOE_UNROLL
      for (int p = 0; p < WP; ++p) a[p] = ldg_stream(atoms + i * 32 + off(p, matrix.part_step));
      multiply_atom<NT, WP, XP>(a, tiles, row, x_step, i * kAtomCols + k0, k_size, acc);
    }
  }
}

// acc[tile] += row block `block` times the rows of `row` (column g of each tile; null: zeros), this warp's share of K.
// k_size and x.step are even.
template <int NT, bool bf16_only, int XP>
SMOE_DEVICE void multiply_rows(const AtomMatrix& matrix, int64_t block, int tiles, const bf16* const (&row)[NT],
                               const Planes& x, int64_t k_size, float (&acc)[NT][4]) {
  const int64_t x_step = XP == 1 ? 0 : x.step;
  if (bf16_only || matrix.format == AtomFormat::Bf16) {
    multiply_parts<NT, 1, XP>(matrix, block, warp(), kExpertWarps, tiles, row, x_step, k_size, acc);
    return;
  }
  if constexpr (!bf16_only) {
    if (matrix.format == AtomFormat::Bf16x3) {
      multiply_parts<NT, 3, XP>(matrix, block, warp(), kExpertWarps, tiles, row, x_step, k_size, acc);
      return;
    }
    with_codes(matrix.format, [&](auto codes) {
      multiply_codes<decltype(codes), NT, XP>(matrix, block, warp(), kExpertWarps, tiles, row, x_step, k_size, acc);
    });
  }
}

}  // namespace smoe::cu
