// K2: gate and up projections and the activation of the active experts, up to 64 tokens (specs/cuda-kernels.md 2.4,
// variant V1). A unit is one row block of one expert; every block streams one contiguous interval of packed weights,
// its warps share K.
//
// Unlike the spec, activations are not staged in shared memory: an expert's tokens are read where they lie, eight whole
// 32-byte sectors per atom and token tile, from L1 after the first unit. That leaves no size at which X does not fit,
// no gather step, and one path for 1..64 tokens. Whether staging pays must be measured.
#pragma once

#include "cuda/cu.h"
#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/experts/activation.cuh"
#include "kernels/experts/atoms.h"
#include "kernels/experts/expert_args.h"

namespace smoe::cu {

constexpr int kExpertWarps = 8, kExpertThreads = 32 * kExpertWarps;

inline size_t gate_up_shared_bytes(int tiles) {
  return static_cast<size_t>(2 * kExpertWarps * tiles * 128) * sizeof(float);
}

// Position of the n-th (from 0) set bit.
SMOE_DEVICE int nth_bit(uint64_t mask, int n) {
  for (int i = 0; i < n; ++i) mask &= mask - 1;
  return ffs(mask) - 1;
}

SMOE_DEVICE uint32_t load_pair(const bf16* row, int64_t at, bool real) {
  return real ? ldg(reinterpret_cast<const uint32_t*>(row + at)) : 0u;
}

// What multiply_rows() reads of one expert's matrix.
struct ExpertAtoms {
  const U32x4* atoms;
  int64_t part_step;
  int parts;
};

template <bool bf16_only>
SMOE_DEVICE ExpertAtoms expert_atoms(const AtomMatrix* matrix) {
  if constexpr (bf16_only) {
    return {ldg(&matrix->atoms), 0, 1};
  } else {
    return {ldg(&matrix->atoms), ldg(&matrix->part_step), ldg(&matrix->format) == AtomFormat::Bf16x3 ? 3 : 1};
  }
}

// acc[tile] += one atom times the rows. With WP weight and XP activation parts, the products of parts p and q with
// p + q <= 2, large ones first; the others lie below 2^-23 of the whole (as in router_gemm.cuh).
template <int NT, int WP, int XP>
SMOE_DEVICE void multiply_atom(const U32x4* atom, int64_t part_step, int tiles, const bf16* const (&row)[NT],
                               int64_t x_step, int64_t k, int64_t k_size, float (&acc)[NT][4]) {
  U32x4 a[WP];
  SMOE_UNROLL
  for (int p = 0; p < WP; ++p) a[p] = ldg_stream(atom + off(p, part_step));
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
SMOE_DEVICE void multiply_parts(const ExpertAtoms& w, int64_t first, int64_t begin, int64_t end, int tiles,
                                const bf16* const (&row)[NT], int64_t x_step, int64_t k_size, float (&acc)[NT][4]) {
  const U32x4* const atoms = w.atoms + first * 32 + lane();
  const int64_t k0 = 2 * (lane() % 4);
  if constexpr (WP * XP == 1) {
    SMOE_UNROLL4
    for (int64_t i = begin; i < end; ++i) {
      multiply_atom<NT, 1, 1>(atoms + i * 32, 0, tiles, row, 0, i * kAtomCols + k0, k_size, acc);
    }
  } else {
    for (int64_t i = begin; i < end; ++i) {
      multiply_atom<NT, WP, XP>(atoms + i * 32, w.part_step, tiles, row, x_step, i * kAtomCols + k0, k_size, acc);
    }
  }
}

// acc[tile] += one row block, whose atoms begin at `first`, times the rows of `row` (column g of each tile; null:
// zeros), atoms [begin, end) of K. k_size and x.step are even.
template <int NT, bool bf16_only>
SMOE_DEVICE void multiply_rows(const ExpertAtoms& w, int64_t first, int64_t begin, int64_t end, int tiles,
                               const bf16* const (&row)[NT], const Planes& x, int64_t k_size, float (&acc)[NT][4]) {
  if constexpr (bf16_only) {
    multiply_parts<NT, 1, 1>(w, first, begin, end, tiles, row, 0, k_size, acc);
  } else if (w.parts == 3) {
    if (x.parts == 3) {
      multiply_parts<NT, 3, 3>(w, first, begin, end, tiles, row, x.step, k_size, acc);
    } else {
      multiply_parts<NT, 3, 1>(w, first, begin, end, tiles, row, 0, k_size, acc);
    }
  } else if (x.parts == 3) {
    multiply_parts<NT, 1, 3>(w, first, begin, end, tiles, row, x.step, k_size, acc);
  } else {
    multiply_parts<NT, 1, 1>(w, first, begin, end, tiles, row, 0, k_size, acc);
  }
}

// NT: token tiles of eight that an expert can have, ceil(T / 8) rounded up to 1, 2, 4 or 8.
template <int NT, bool bf16_only>
SMOE_KERNEL(kExpertThreads, 1)
gate_up(GateUpArgs args) {
  SMOE_SMEM_DYN(float, partial);  // [2][warps][NT][16 x 8]
  pdl_wait();
  const int features = args.glu ? 8 : kAtomRows;  // of a row block
  const int64_t blocks = args.glu ? glu_row_blocks(args.width) : row_blocks(args.width);
  const int64_t atoms = atoms_along(args.hidden), units = off(ldg(args.plan.active_count), blocks);
  const int64_t first = units * bid() / nblocks(), stop = units * (bid() + 1) / nblocks();
  const int64_t k_begin = atoms * warp() / kExpertWarps, k_end = atoms * (warp() + 1) / kExpertWarps;
  int expert = -1, count = 0, row0 = 0;
  ExpertAtoms weights{};
  const bf16* row[NT] = {};
  for (int64_t unit = first; unit < stop; ++unit) {
    const int now = ldg(args.plan.active + unit / blocks);
    const int64_t block = unit % blocks;
    if (now != expert) {
      expert = now;
      weights = expert_atoms<bf16_only>(args.weights + expert);
      const uint64_t mask = ldg(args.plan.mask + expert);
      count = popc(mask);
      row0 = ldg(args.plan.offset + expert);
      SMOE_UNROLL
      for (int tile = 0; tile < NT; ++tile) {
        const int n = tile * 8 + lane() / 4;
        row[tile] = n < count ? args.x.data + off(nth_bit(mask, n), args.hidden) : nullptr;
      }
    }
    const int tiles = (count + 7) / 8;
    float acc[NT][4] = {};
    multiply_rows<NT, bf16_only>(weights, off(block, atoms), k_begin, k_end, tiles, row, args.x, args.hidden, acc);
    // Two buffers: the warps that are done with this unit may already write the next one's sums, and no further.
    float* const sums = partial + (unit & 1) * kExpertWarps * NT * 128;
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile >= tiles) break;
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Element at = c_element(lane(), 2 * half);
        float* const to = sums + (warp() * NT + tile) * 128 + at.row * 8 + at.col;
        sts(reinterpret_cast<U32x2*>(to),
            U32x2{{bit_cast<uint32_t>(acc[tile][2 * half]), bit_cast<uint32_t>(acc[tile][2 * half + 1])}});
      }
    }
    sync();
    for (int i = tid(); i < count * features; i += nthreads()) {
      const int n = args.glu ? i / 8 : i / kAtomRows, feature = i % features;
      const int64_t unit_of_h = block * features + feature, bias = off(expert, args.width) + unit_of_h;
      if (unit_of_h >= args.width) continue;
      const float* const mine = sums + n / 8 * 128 + feature * 8 + n % 8;
      const float weight = args.weight_on_input ? ldg(args.plan.row_weight + row0 + n) : 1.0f;
      float low = 0, high = 0;  // gate and up; plain: low alone, up
      for (int w = 0; w < kExpertWarps; ++w) {
        low += lds(mine + w * NT * 128);
        if (args.glu) high += lds(mine + w * NT * 128 + 64);
      }
      low *= weight;
      float value;
      if (args.glu) {
        high *= weight;
        if (args.gate_bias != nullptr) low += ldg(args.gate_bias + bias);
        if (args.up_bias != nullptr) high += ldg(args.up_bias + bias);
        value = activate_glu(args.activation, low, high);
      } else {
        if (args.up_bias != nullptr) low += ldg(args.up_bias + bias);
        value = activate_plain(args.activation.kind, low, args.activation.alpha);
      }
      bf16* const to = args.h.data + off(row0 + n, args.width) + unit_of_h;
      for (int p = 0; p < args.h.parts; ++p) {
        const bf16 part = to_bf16(value);
        stg(to + off(p, args.h.step), part);
        value -= to_float(part);
      }
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
