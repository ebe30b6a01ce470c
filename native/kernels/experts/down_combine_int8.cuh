// K3 with int8 activations: down_combine.cuh with the inner loop of multiply_int8.cuh. An expert's output is complete
// before it is weighted, as on the CPU.
#pragma once

#include "kernels/experts/down_combine.cuh"
#include "kernels/experts/gate_up_int8.cuh"

namespace smoe::cu {

// NT: as in gate_up. One block per row block of W2.
template <int NT>
SMOE_KERNEL(32 * most_down_warps(NT <= 2), 1)
down_combine_int8(DownCombineInt8Args args) {
  SMOE_SMEM_DYN(unsigned char, base);
  const DownCombineArgs& map = args.map;
  const DecodeShared<NT> shared(base, map);
  const int active = shared.list.template fill<false, true>(map.plan, map.weights,
                                                            shared.list.template first<false, true>(map.weights));
  const int64_t column0 = int64_t{bid()} * kAtomRows;
  const int shift = slice_shift(map.width, down_slice(false)), slices = 1 << shift, items = active << shift;
  DecodeStream<NT> stream(shared.ring, {shared.list, map.width, shift, 0, 1, bid(), warp(), items, {}});
  pdl_wait();
  pdl_trigger();
  const int tokens = real_tokens(map);
  float* const y = shared.down;
  clear_sums(y);
  const auto multiply = [&](int item, float* sums) {
    const ActiveExpert e = shared.list[item >> shift];
    const int tiles = (e.count + 7) / 8;
    Int8Tiles<NT> x;
    x.start(args.h, e.count, [&](int n) { return e.row0 + n; });
    float acc[NT][4] = {};
    multiply_int8_rows<NT>(stream, load_matrix<false>(map.weights + e.expert), bid(), item & (slices - 1), slices,
                           e.apart, tiles, x, map.width, acc);
    share_sums<NT>(acc, tiles, sums);
  };
  const auto finish = [&](int item, int buffer) {
    const int first = item >> shift, past = first + (warps() >> shift);
    add_experts<NT>(map, shared.list, first, past < active ? past : active, column0, y,
                    [&](int place, const ActiveExpert& e, int n, int row) {
                      const AtomMatrix matrix = load_matrix<false>(map.weights + e.expert);
                      const float* const mine = shared.sums_of(buffer, (place - first) << shift) + n / 8 * kTileSums +
                                                row * kSumPitch + n % 8;
                      const U32x2 pair =
                          matrix.group > 0 ? U32x2{} : ldg(args.h.scales + off(e.row0 + n, args.h.groups));
                      return gather_slices(matrix, bid(), row, mine, slices, NT * kTileSums, pair);
                    });
  };
  decode_rounds(shared, items, multiply, finish);
  finish_columns(map, tokens, column0, y);
}

}  // namespace smoe::cu
