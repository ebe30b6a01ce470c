// K2: gate and up projections and the activation of the active experts, up to 64 tokens (specs/cuda-kernels.md 2.4,
// variant V1). A unit is one row block of one expert; every block streams one contiguous interval of packed weights,
// its warps share K.
//
// Unlike the spec, activations are not staged in shared memory: an expert's tokens are read where they lie, eight whole
// 32-byte sectors per atom and token tile, from L1 after the first unit. That leaves no size at which X does not fit,
// no gather step, and one path for 1..64 tokens. Whether staging pays must be measured.
#pragma once

#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/experts/activation.cuh"
#include "kernels/experts/expert_args.h"
#include "kernels/experts/multiply_rows.cuh"
#include "kernels/experts/token_bits.cuh"

namespace smoe::cu {

inline size_t gate_up_shared_bytes(int tiles) {
  return static_cast<size_t>(2 * kExpertWarps * tiles * 128) * sizeof(float);
}

// NT: token tiles of eight that an expert can have, ceil(T / 8) rounded up to 1, 2, 4 or 8.
// XP: parts of x; bf16_only: of bf16 matrices and one part.
template <int NT, bool bf16_only, int XP>
SMOE_KERNEL(kExpertThreads, 1)
gate_up(GateUpArgs args) {
  SMOE_SMEM_DYN(float, partial);  // [2][warps][NT][16 x 8]
  pdl_wait();
  const int features = args.glu ? 8 : kAtomRows;  // of a row block
  const int64_t blocks = args.glu ? glu_row_blocks(args.width) : row_blocks(args.width);
  const int64_t units = off(ldg(args.plan.active_count), blocks);
  const int64_t first = units * bid() / nblocks(), stop = units * (bid() + 1) / nblocks();
  int expert = -1, count = 0, row0 = 0;
  AtomMatrix weights{};
  const bf16* row[NT] = {};
  for (int64_t unit = first; unit < stop; ++unit) {
    const int now = ldg(args.plan.active + unit / blocks);
    const int64_t block = unit % blocks;
    if (now != expert) {
      expert = now;
      weights = load_matrix<bf16_only>(args.weights + expert);
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
    multiply_rows<NT, bf16_only, XP>(weights, block, tiles, row, args.x, args.hidden, acc);
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
      SMOE_UNROLL1
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
