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
#include "kernels/experts/atoms.h"
#include "kernels/kernel_table.h"

namespace smoe::cu {

constexpr int kExpertWarps = 8, kExpertThreads = 32 * kExpertWarps;

SMOE_DEVICE float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::Silu:
      return x / (1 + expf(-x));
    case Activation::GeluTanh:
      return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));  // sqrt(2/pi)
    case Activation::GeluErf:
      return 0.5f * x * (1 + erff(x * 0.7071067812f));  // sqrt(1/2)
    case Activation::Relu:
      return fmaxf(x, 0.0f);
    case Activation::Relu2:
      return x > 0 ? x * x : 0.0f;
    case Activation::Identity:
      return x;
  }
  return x;
}

struct GateUpArgs {
  const U32x4* weights;    // pack_gate_up() of every expert
  const float* gate_bias;  // [E, I] or null
  const float* up_bias;    // [E, I] or null
  const bf16* x;           // [T, H]
  bf16* h;                 // [pairs, I], by row
  int64_t hidden;          // even
  int64_t width;           // I, a multiple of 8
  Activation activation;
  bool weight_on_input;  // the routing weight multiplies x (Llama-4): by linearity, both sums
  DispatchBits plan;
};

inline size_t gate_up_shared_bytes(int tiles) {
  return static_cast<size_t>(2 * kExpertWarps * tiles * 128) * sizeof(float);
}

// Position of the n-th (from 0) set bit.
SMOE_DEVICE int nth_bit(uint64_t mask, int n) {
  for (int i = 0; i < n; ++i) mask &= mask - 1;
  return ffs(mask) - 1;
}

SMOE_DEVICE uint32_t load_pair(const bf16* row, int64_t k, bool real) {
  return real ? ldg(reinterpret_cast<const uint32_t*>(row + k)) : 0u;
}

// acc[tile] += one row block times the rows of `row` (column g of each tile; null: zeros), atoms [begin, end) of K.
template <int NT>
SMOE_DEVICE void multiply_rows(const U32x4* atoms, int64_t begin, int64_t end, int tiles, const bf16* const (&row)[NT],
                               int64_t k_size, float (&acc)[NT][4]) {
  const int t = lane() % 4;
  SMOE_UNROLL4
  for (int64_t atom = begin; atom < end; ++atom) {
    const U32x4 a = ldg_stream(atoms + atom * 32 + lane());
    const int64_t k = atom * kAtomCols + 2 * t;
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile >= tiles) break;
      const uint32_t b[2] = {load_pair(row[tile], k, row[tile] != nullptr && k < k_size),
                             load_pair(row[tile], k + 8, row[tile] != nullptr && k + 8 < k_size)};
      mma_bf16(acc[tile], a.x, b);
    }
  }
}

// NT: token tiles of eight that an expert can have, ceil(T / 8) rounded up to 1, 2, 4 or 8.
template <int NT>
SMOE_KERNEL(kExpertThreads, 1)
gate_up(GateUpArgs args) {
  SMOE_SMEM_DYN(float, partial);  // [2][warps][NT][16 x 8]
  pdl_wait();
  const int64_t blocks = glu_row_blocks(args.width), atoms = atoms_along(args.hidden);
  const int64_t units = off(ldg(args.plan.active_count), blocks);
  const int64_t first = units * bid() / nblocks(), stop = units * (bid() + 1) / nblocks();
  const int64_t k_begin = atoms * warp() / kExpertWarps, k_end = atoms * (warp() + 1) / kExpertWarps;
  int expert = -1, count = 0, row0 = 0;
  const bf16* row[NT] = {};
  for (int64_t unit = first; unit < stop; ++unit) {
    const int now = ldg(args.plan.active + unit / blocks);
    const int64_t block = unit % blocks;
    if (now != expert) {
      expert = now;
      const uint64_t mask = ldg(args.plan.mask + expert);
      count = popc(mask);
      row0 = ldg(args.plan.offset + expert);
      SMOE_UNROLL
      for (int tile = 0; tile < NT; ++tile) {
        const int n = tile * 8 + lane() / 4;
        row[tile] = n < count ? args.x + off(nth_bit(mask, n), args.hidden) : nullptr;
      }
    }
    const int tiles = (count + 7) / 8;
    float acc[NT][4] = {};
    multiply_rows<NT>(args.weights + off(off(expert, blocks) + block, atoms) * 32, k_begin, k_end, tiles, row,
                      args.hidden, acc);
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
    for (int i = tid(); i < count * 8; i += nthreads()) {
      const int n = i / 8, feature = i % 8;
      const float* const mine = sums + n / 8 * 128 + feature * 8 + n % 8;
      float gate = 0, up = 0;
      for (int w = 0; w < kExpertWarps; ++w) {
        gate += lds(mine + w * NT * 128);
        up += lds(mine + w * NT * 128 + 64);
      }
      if (args.weight_on_input) {
        const float weight = ldg(args.plan.row_weight + row0 + n);
        gate *= weight;
        up *= weight;
      }
      const int64_t unit_of_h = block * 8 + feature, bias = off(expert, args.width) + unit_of_h;
      if (args.gate_bias != nullptr) gate += ldg(args.gate_bias + bias);
      if (args.up_bias != nullptr) up += ldg(args.up_bias + bias);
      stg(args.h + off(row0 + n, args.width) + unit_of_h, to_bf16(activate(args.activation, gate) * up));
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
