// K2 with int8 activations: gate_up.cuh with the inner loop of multiply_int8.cuh. h stays f32, as on the CPU; the next
// launch quantises it, which takes whole groups of its rows.
#pragma once

#include "kernels/experts/gate_up.cuh"
#include "kernels/experts/multiply_int8.cuh"

namespace smoe::cu {

// NT: as in gate_up.
template <int NT>
SMOE_KERNEL(32 * kGateUpWarps, (NT <= 2 ? 2 : 1))
gate_up_int8(GateUpInt8Args args) {
  SMOE_SMEM_DYN(unsigned char, base);
  const GateUpArgs& map = args.map;
  const DecodeShared<NT> shared(base, map);
  const ListedMatrix matrix_ahead = shared.list.template first<false, true>(map.weights);
  pdl_wait();
  pdl_trigger();
  const UnitRange range(map, shared.list.template fill<false, true>(map.plan, map.weights, matrix_ahead));
  const int shift = slice_shift(map.hidden, kGateUpSlice), slices = 1 << shift;
  const int items = (range.stop - range.first) << shift;
  DecodeStream<NT> stream(shared.ring,
                          {shared.list, map.hidden, shift, range.first, range.blocks, -1, warp(), items, {}});
  int listed = -1, expert = 0, count = 0, apart = 0;  // whose rows are at hand, as in gate_up
  Int8Tiles<NT> x;
  const auto row_of = [&](const ActiveExpert& of, int n) {
    return args.x.dispatched ? of.row0 + n : nth_bit(of.mask, n);
  };
  const auto multiply = [&](int item, float* sums) {
    const int unit = range.first + (item >> shift), place = unit / range.blocks;
    if (place != listed) {
      listed = place;
      const ActiveExpert e = shared.list[place];
      expert = e.expert;
      count = e.count;
      apart = e.apart;
      x.start(rows_of_group(args.x, ldg(&map.weights[expert].group)), count, [&](int n) { return row_of(e, n); });
    }
    const int tiles = (count + 7) / 8;
    float acc[NT][4] = {};
    multiply_int8_rows<NT>(stream, load_matrix<false>(map.weights + expert), unit - place * range.blocks,
                           item & (slices - 1), slices, apart, tiles, x, map.hidden, acc);
    share_sums<NT>(acc, tiles, sums);
  };
  // The warps of a unit's slices finish it.
  const auto finish = [&](int first, int buffer) {
    const int group = warp() >> shift, unit = range.first + (first >> shift) + group, threads = 32 << shift;
    if (unit >= range.stop) return;
    const int place = unit / range.blocks, block = unit - place * range.blocks;
    const ActiveExpert of = shared.list[place];
    const AtomMatrix matrix = load_matrix<false>(map.weights + of.expert);
    const Int8Rows rows = rows_of_group(args.x, matrix.group);
    const float* const sums = shared.sums_of(buffer, group << shift);
    finish_unit(
        map, of, block, tid() - group * threads, threads,
        [&](int n, int row) {
          const U32x2 pair = matrix.group > 0 ? U32x2{} : ldg(rows.scales + off(row_of(of, n), rows.groups));
          return gather_slices(matrix, block, row, sums + n / 8 * kTileSums + row * kSumPitch + n % 8, slices,
                               NT * kTileSums, pair);
        },
        [&](int64_t at, float value) { stg(args.h + at, value); });
  };
  decode_rounds(shared, items, multiply, finish);
}

}  // namespace smoe::cu
