// K2: gate and up projections and the activation of the active experts, up to 64 tokens (specs/cuda-kernels.md 2.4,
// variant V1). A unit is one row block of one expert; every block of the grid streams one contiguous interval of packed
// weights.
//
// Unlike the spec, activations are not staged in shared memory: an expert's tokens are read where they lie, eight whole
// 32-byte sectors per atom and token tile, from L1 after the first unit. That leaves no size at which X does not fit,
// no gather step, and one path for 1..64 tokens.
#pragma once

#include "kernels/experts/activation.cuh"
#include "kernels/experts/decode_block.cuh"
#include "kernels/experts/nested_planes.cuh"
#include "kernels/experts/token_bits.cuh"

namespace smoe::cu {

// h of one row block of expert `e`, for its tokens, by `threads` threads. sum(n, row): the output of row `row` of the
// block for the expert's n-th token. store(at, value): of element `at` of h.
template <class Sum, class Store>
SMOE_DEVICE void finish_unit(const GateUpArgs& args, const ActiveExpert& e, int block, int thread, int threads, Sum sum,
                             Store store) {
  const int features = args.glu ? 8 : kAtomRows;  // of a row block
  SMOE_UNROLL1
  for (int i = thread; i < e.count * features; i += threads) {
    const int n = args.glu ? i / 8 : i / kAtomRows, feature = i % features;
    const int64_t unit_of_h = off(block, features) + feature, bias = off(e.expert, args.width) + unit_of_h;
    if (unit_of_h >= args.width) continue;
    float low = sum(n, feature), value;  // gate; plain: up
    if (args.glu) {
      float high = sum(n, feature + 8);
      if (args.gate_bias != nullptr) low += ldg(args.gate_bias + bias);
      if (args.up_bias != nullptr) high += ldg(args.up_bias + bias);
      value = activate_glu(args.activation, low, high);
    } else {
      if (args.up_bias != nullptr) low += ldg(args.up_bias + bias);
      value = activate_plain(args.activation.kind, low, args.activation.alpha);
    }
    store(off(e.row0 + n, args.width) + unit_of_h, value);
  }
}

// The units of a block of K2: a contiguous interval of all row blocks of the active experts.
struct UnitRange {
  int blocks, first, stop;
  SMOE_DEVICE UnitRange(const GateUpArgs& args, int active)
      : blocks(static_cast<int>(args.glu ? glu_row_blocks(args.width) : row_blocks(args.width))) {
    const int64_t units = off(active, blocks);
    first = static_cast<int>(units * bid() / nblocks());
    stop = static_cast<int>(units * (bid() + 1) / nblocks());
  }
};

// Columns of a slice of K2, at least: units are many, and what a round costs beside its atoms counts.
constexpr int kGateUpSlice = 1024;

// NT: token tiles of eight that an expert can have, ceil(T / 8) rounded up to 1, 2, 4 or 8.
// XP: parts of x; bf16_only: of bf16 matrices and one part; nested: of any, with residual planes.
template <int NT, bool bf16_only, int XP, bool nested = false>
SMOE_KERNEL(32 * kGateUpWarps, (bf16_only || NT * XP <= 3 ? 2 : 1))
gate_up(GateUpArgs args) {
  SMOE_SMEM_DYN(unsigned char, base);
  const DecodeShared<NT> shared(base, args);
  const ListedMatrix matrix_ahead = shared.list.template first<bf16_only>(args.weights);
  pdl_wait();
  pdl_trigger();  // K3 reads its list, and its first weights, while this kernel ends
  const UnitRange range(args, shared.list.template fill<bf16_only>(args.plan, args.weights, matrix_ahead));
  const int shift = slice_shift(args.hidden, kGateUpSlice), slices = 1 << shift;
  const int items = (range.stop - range.first) << shift;
  const auto parts = part_runs<nested>(args.weights, args.nested);
  DecodeStream<NT, std::decay_t<decltype(parts)>> stream(
      shared.ring, {shared.list, args.hidden, shift, range.first, range.blocks, -1, warp(), items, parts});
  int listed = -1, expert = 0;  // whose rows are at hand: it may stand in several places, with other tokens
  TokenRows<NT> rows;
  const auto multiply = [&](int item, float* sums) {
    const int unit = range.first + (item >> shift), place = unit / range.blocks;
    if (place != listed) {
      listed = place;
      const ActiveExpert e = shared.list[place];
      expert = e.expert;
      rows.start(args.x.data, e.count, [&](int n) { return static_cast<uint32_t>(nth_bit(e.mask, n) * args.hidden); });
    }
    float acc[NT][4] = {};
    // Its matrix is read again for each item, from L1: kept, it would cost 12 registers.
    const AtomMatrix* const matrix = args.weights + expert;
    const int block = unit - place * range.blocks, slice = item & (slices - 1);
    multiply_rows<NT, bf16_only, XP>(stream, load_matrix<bf16_only>(matrix), block, slice, slices, rows, args.x,
                                     args.hidden, acc);
    if constexpr (nested) {
      multiply_planes<NT, XP>(stream, matrix, planes_read(matrix, args.nested, expert), block, slice, slices, rows,
                              args.x, args.hidden, acc);
    }
    share_sums<NT>(acc, (rows.count + 7) / 8, sums);
  };
  // The warps of a unit's slices finish it.
  const auto finish = [&](int first, int buffer) {
    const int group = warp() >> shift, unit = range.first + (first >> shift) + group, threads = 32 << shift;
    if (unit >= range.stop) return;
    const int place = unit / range.blocks;
    const ActiveExpert of = shared.list[place];
    const float* const sums = shared.sums_of(buffer, group << shift);
    finish_unit(
        args, of, unit - place * range.blocks, tid() - group * threads, threads,
        [&](int n, int row) {
          const float* const mine = sums + n / 8 * kTileSums + row * kSumPitch + n % 8;
          float sum = 0;
          for (int s = 0; s < slices; ++s) sum += lds(mine + s * NT * kTileSums);
          return args.weight_on_input ? sum * ldg(args.plan.row_weight + of.row0 + n) : sum;
        },
        [&](int64_t at, float value) {
          SMOE_UNROLL1
          for (int p = 0; p < args.h.parts; ++p) {
            const bf16 part = to_bf16(value);
            stg(args.h.data + at + off(p, args.h.step), part);
            value -= to_float(part);
          }
        });
  };
  decode_rounds(shared, items, multiply, finish);
}

}  // namespace smoe::cu
