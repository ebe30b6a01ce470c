// K2 with int8 activations: gate_up.cuh with the inner loop of multiply_int8.cuh. h stays f32, as on the CPU; the next
// launch quantises it, which takes whole groups of its rows.
#pragma once

#include "kernels/experts/activation.cuh"
#include "kernels/experts/multiply_int8.cuh"
#include "kernels/experts/token_bits.cuh"

namespace smoe::cu {

inline size_t int8_shared_bytes(int tiles) {
  return static_cast<size_t>(2 * kExpertWarps * tiles * 128) * sizeof(float);
}

// NT: as in gate_up.
template <int NT>
SMOE_KERNEL(kExpertThreads, 1)
gate_up_int8(GateUpInt8Args args) {
  SMOE_SMEM_DYN(float, partial);  // [2][warps][NT][16 x 8]
  pdl_wait();
  const GateUpArgs& map = args.map;
  const int features = map.glu ? 8 : kAtomRows;  // of a row block
  const int64_t blocks = map.glu ? glu_row_blocks(map.width) : row_blocks(map.width);
  const int64_t units = off(ldg(map.plan.active_count), blocks);
  const int64_t first = units * bid() / nblocks(), stop = units * (bid() + 1) / nblocks();
  int expert = -1, count = 0, row0 = 0;
  uint64_t mask = 0;
  AtomMatrix weights{};
  Int8Rows rows;
  Int8Tiles<NT> x;
  const auto row_of = [&](int n) { return args.x.dispatched ? row0 + n : nth_bit(mask, n); };
  for (int64_t unit = first; unit < stop; ++unit) {
    const int now = ldg(map.plan.active + unit / blocks);
    const int64_t block = unit % blocks;
    if (now != expert) {
      expert = now;
      weights = load_matrix<false>(map.weights + expert);
      mask = ldg(map.plan.mask + expert);
      count = popc(mask);
      row0 = ldg(map.plan.offset + expert);
      rows = rows_of_group(args.x, weights.group);
      x.start(rows, count, row_of);
    }
    const int tiles = (count + 7) / 8;
    float acc[NT][4] = {};
    multiply_int8_rows<NT>(weights, block, tiles, x, map.hidden, acc);
    // Two buffers: the warps that are done with this unit may already write the next one's sums, and no further.
    float* const sums = partial + (unit & 1) * kExpertWarps * NT * 128;
    share_sums<NT>(acc, tiles, sums + warp() * NT * 128);
    sync();
    for (int i = tid(); i < count * features; i += nthreads()) {
      const int n = map.glu ? i / 8 : i / kAtomRows, feature = i % features;
      const int64_t unit_of_h = block * features + feature, bias = off(expert, map.width) + unit_of_h;
      if (unit_of_h >= map.width) continue;
      const float* const mine = sums + n / 8 * 128 + feature * 8 + n % 8;
      const U32x2 pair = weights.group > 0 ? U32x2{} : ldg(rows.scales + off(row_of(n), rows.groups));
      float low = gather_warps(weights, block, feature, mine, NT * 128, pair);  // gate; plain: up
      float value;
      if (map.glu) {
        float high = gather_warps(weights, block, feature + 8, mine + 64, NT * 128, pair);
        if (map.gate_bias != nullptr) low += ldg(map.gate_bias + bias);
        if (map.up_bias != nullptr) high += ldg(map.up_bias + bias);
        value = activate_glu(map.activation, low, high);
      } else {
        if (map.up_bias != nullptr) low += ldg(map.up_bias + bias);
        value = activate_plain(map.activation.kind, low, map.activation.alpha);
      }
      stg(args.h + off(row0 + n, map.width) + unit_of_h, value);
    }
  }
  pdl_trigger();
}

}  // namespace smoe::cu
