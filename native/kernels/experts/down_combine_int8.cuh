// K3 with int8 activations: output-stationary as down_combine.cuh is. The warps' sums meet once per expert and not once
// at the end, because groups of a whole row have to be added up as integers before they are scaled; then an expert's
// output is complete before it is weighted, as on the CPU.
#pragma once

#include "kernels/experts/down_combine.cuh"
#include "kernels/experts/gate_up_int8.cuh"

namespace smoe::cu {

// Buffers of the warps' sums. With eight tiles two would not fit into the 99 KB that a block of sm_86 can have.
SMOE_HD constexpr int down_int8_buffers(int tiles) { return tiles == 8 ? 1 : 2; }
inline size_t down_int8_shared_bytes(int tiles) {
  return static_cast<size_t>(tiles * 8 * kAtomRows + down_int8_buffers(tiles) * kExpertWarps * tiles * 128) *
         sizeof(float);
}

// NT: as in gate_up. One block per row block of W2.
template <int NT>
SMOE_KERNEL(kExpertThreads, 1)
down_combine_int8(DownCombineInt8Args args) {
  SMOE_SMEM_DYN(float, master);                        // [8 NT tokens][16]
  float* const partial = master + NT * 8 * kAtomRows;  // [buffers][warps][NT][16 x 8]
  for (int i = tid(); i < NT * 8 * kAtomRows; i += nthreads()) sts(master + i, 0.0f);
  pdl_wait();
  const DownCombineArgs& map = args.map;
  const int64_t column0 = int64_t{bid()} * kAtomRows;
  const int active = ldg(map.plan.active_count);
  for (int i = 0; i < active; ++i) {
    const int expert = ldg(map.plan.active + i);
    const uint64_t mask = ldg(map.plan.mask + expert);
    const int count = popc(mask), row0 = ldg(map.plan.offset + expert), tiles = (count + 7) / 8;
    const AtomMatrix weights = load_matrix<false>(map.weights + expert);
    Int8Tiles<NT> x;
    x.start(args.h, count, [&](int n) { return row0 + n; });
    float acc[NT][4] = {};
    multiply_int8_rows<NT>(weights, bid(), tiles, x, map.width, acc);
    // Two buffers: the warps that are done with this expert may already write the next one's sums, and no further.
    constexpr int kBuffers = down_int8_buffers(NT);
    float* const sums = partial + i % kBuffers * kExpertWarps * NT * 128;
    if (kBuffers == 1) sync();
    share_sums<NT>(acc, tiles, sums + warp() * NT * 128);
    sync();
    for (int j = tid(); j < count * kAtomRows; j += nthreads()) {
      const int n = j / kAtomRows, row = j % kAtomRows;
      const U32x2 pair = weights.group > 0 ? U32x2{} : ldg(args.h.scales + off(row0 + n, args.h.groups));
      float y = gather_warps(weights, bid(), row, sums + n / 8 * 128 + row * 8 + n % 8, NT * 128, pair);
      if (map.bias != nullptr && column0 + row < map.hidden)
        y += ldg(map.bias + off(expert, map.hidden) + column0 + row);
      float* const to = master + nth_bit(mask, n) * kAtomRows + row;
      sts(to, fma(map.weight_on_input ? 1.0f : ldg(map.plan.row_weight + row0 + n), y, lds(to)));
    }
  }
  sync();
  pdl_trigger();
  finish_columns(map, column0, [&](int i) { return lds(master + i); });
}

}  // namespace smoe::cu
