// K3: down projections of the active experts, weighted combine, shared output, residual and momentum, up to 64 tokens
// (specs/cuda-kernels.md 2.5). Output-stationary: a block owns 16 columns of H for all experts and tokens, nobody else
// writes them, so there is nothing to combine across blocks. A token's experts are added in ascending order of id, each
// from its own zero: its bits do not depend on the rest of the batch.
#pragma once

#include "kernels/combine/residual_step.cuh"
#include "kernels/experts/gate_up.cuh"

namespace smoe::cu {

// Token i / 16, column i % 16 of the block's 16, from its sum over the experts.
SMOE_DEVICE void finish_column(const DownCombineArgs& args, int tokens, int i, int64_t column0, float y) {
  const int token = i / kAtomRows;
  const int64_t column = column0 + i % kAtomRows, at = off(token, args.hidden) + column;
  if (token >= args.max_tokens || column >= args.hidden) return;
  if (token >= tokens) {
    stg(args.out + at, 0.0f);
    return;
  }
  if (args.shared != nullptr) {
    y = fma(args.shared_scale != nullptr ? ldg(args.shared_scale + token) : 1.0f, ldg(args.shared + at), y);
  }
  if (args.update_out != nullptr) stg(args.update_out + at, y);
  stg(args.out + at, residual_step(args.step, args.state, args.residual, at, y));
}

// Warps of a block at most: those of 128 registers each, or half as many of twice that.
SMOE_HD constexpr int most_down_warps(bool light) { return light ? kDecodeWarps : kDecodeWarps / 2; }

// Columns of a slice of K3, at least: a block has few items, of which each warp should have as many.
SMOE_HD constexpr int down_slice(bool bf16_only) { return bf16_only ? 512 : 1024; }

// The block's sums, token and column i of its 16, of which thread i % threads has charge. They lie in shared memory: a
// kernel of few tiles, too, has up to 64 tokens.
SMOE_DEVICE void clear_sums(float* y) {
  for (int i = tid(); i < kDownSums; i += nthreads()) sts(y + i, 0.0f);
}
SMOE_DEVICE int real_tokens(const DownCombineArgs& args) {
  return args.num_tokens != nullptr ? ldg(args.num_tokens) : args.max_tokens;
}
// All of the block's outputs. tokens: real_tokens(), read long before. Rows past the 64 that can be tokens are
// padding.
SMOE_DEVICE void finish_columns(const DownCombineArgs& args, int tokens, int64_t column0, const float* y) {
  SMOE_UNROLL1
  for (int i = tid(); i < args.max_tokens * kAtomRows; i += nthreads()) {
    finish_column(args, tokens, i, column0, i < kDownSums ? lds(y + i) : 0.0f);
  }
}

// y += what the experts [first, stop) of the list give, one after the other. value(place, e, n, row): the output of row
// `row` of the row block for the expert's n-th token.
template <int NT, class Value>
SMOE_DEVICE void add_experts(const DownCombineArgs& args, const ActiveList<NT>& list, int first, int stop,
                             int64_t column0, float* y, Value value) {
  const int rows = args.max_tokens * kAtomRows < kDownSums ? args.max_tokens * kAtomRows : kDownSums;
  SMOE_UNROLL1
  for (int place = first; place < stop; ++place) {
    const ActiveExpert e = list[place];
    SMOE_UNROLL1
    for (int i = tid(); i < rows; i += nthreads()) {
      const int token = i / kAtomRows, row = i % kAtomRows;
      if ((e.mask >> token & 1) == 0) continue;
      const int n = dispatch_rank(e.mask, token);
      const float weight = args.weight_on_input ? 1.0f : ldg(args.plan.row_weight + e.row0 + n);
      float sum = value(place, e, n, row);
      if (args.bias != nullptr && column0 + row < args.hidden) {
        sum += ldg(args.bias + off(e.expert, args.hidden) + column0 + row);
      }
      sts(y + i, fma(weight, sum, lds(y + i)));
    }
  }
}

// NT, bf16_only, XP, nested: as in gate_up. One block per row block of W2. The plan is K1's, which had ended when K2
// let this kernel start; h alone has to be waited for.
template <int NT, bool bf16_only, int XP, bool nested = false>
SMOE_KERNEL(32 * most_down_warps(bf16_only ? NT <= 4 : NT * XP <= 2), (NT * XP == 3 ? 2 : 1))
down_combine(DownCombineArgs args) {
  SMOE_SMEM_DYN(unsigned char, base);
  const DecodeShared<NT> shared(base, args);
  const int active = shared.list.template fill<bf16_only>(args.plan, args.weights,
                                                          shared.list.template first<bf16_only>(args.weights));
  const int64_t column0 = int64_t{bid()} * kAtomRows;
  const int shift = slice_shift(args.width, down_slice(bf16_only)), slices = 1 << shift, items = active << shift;
  const auto parts = part_runs<nested>(args.weights, args.nested);
  DecodeStream<NT, std::decay_t<decltype(parts)>> stream(
      shared.ring, {shared.list, args.width, shift, 0, 1, bid(), warp(), items, parts});
  pdl_wait();
  pdl_trigger();  // what comes next reads its first weights while this ends
  const int tokens = real_tokens(args);
  float* const y = shared.down;
  clear_sums(y);
  const auto multiply = [&](int item, float* sums) {
    const ActiveExpert e = shared.list[item >> shift];
    TokenRows<NT> rows;
    rows.start(args.h.data, e.count, [&](int n) { return static_cast<uint32_t>((e.row0 + n) * args.width); });
    float acc[NT][4] = {};
    const AtomMatrix* const matrix = args.weights + e.expert;
    const int slice = item & (slices - 1);
    multiply_rows<NT, bf16_only, XP>(stream, load_matrix<bf16_only>(matrix), bid(), slice, slices, rows, args.h,
                                     args.width, acc);
    if constexpr (nested) {
      multiply_planes<NT, XP>(stream, matrix, planes_read(matrix, args.nested, e.expert), bid(), slice, slices, rows,
                              args.h, args.width, acc);
    }
    share_sums<NT>(acc, (e.count + 7) / 8, sums);
  };
  const auto finish = [&](int item, int buffer) {
    const int first = item >> shift, past = first + (warps() >> shift);
    add_experts<NT>(args, shared.list, first, past < active ? past : active, column0, y,
                    [&](int place, const ActiveExpert&, int n, int row) {
                      const float* const mine = shared.sums_of(buffer, (place - first) << shift) + n / 8 * kTileSums +
                                                row * kSumPitch + n % 8;
                      float sum = 0;
                      for (int s = 0; s < slices; ++s) sum += lds(mine + s * NT * kTileSums);
                      return sum;
                    });
  };
  decode_rounds(shared, items, multiply, finish);
  finish_columns(args, tokens, column0, y);
}

}  // namespace smoe::cu
