// K3: down projections of the active experts, weighted combine, shared output, residual and momentum, up to 64 tokens
// (specs/cuda-kernels.md 2.5). Output-stationary: a block owns 16 columns of H for all experts and tokens, nobody else
// writes them, so there is nothing to combine across blocks. A token's experts are added in ascending order of id, each
// from its own zero: its bits do not depend on the rest of the batch.
#pragma once

#include "kernels/combine/residual_step.cuh"
#include "kernels/experts/gate_up.cuh"

namespace smoe::cu {

// One sum per token and column for each warp.
inline size_t down_shared_bytes(int tiles) {
  return static_cast<size_t>(kExpertWarps * tiles * 8 * kAtomRows) * sizeof(float);
}

// master[token][column] += weight * acc for the tokens of one expert. Lane columns of `acc` are rows of the expert.
template <int NT>
SMOE_DEVICE void scatter_weighted(const DownCombineArgs& args, uint64_t mask, int count, int row0, int expert,
                                  int64_t column0, const float (&acc)[NT][4], float* master) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile * 8 >= count) break;
    SMOE_UNROLL
    for (int reg = 0; reg < 4; ++reg) {
      const Element at = c_element(lane(), reg);
      const int n = tile * 8 + at.col;
      if (n >= count) continue;
      const float weight = args.weight_on_input ? 1.0f : ldg(args.plan.row_weight + row0 + n);
      float value = acc[tile][reg];
      // One warp adds the bias, so that it enters once.
      const int64_t column = column0 + at.row;
      if (args.bias != nullptr && warp() == 0 && column < args.hidden) {
        value += ldg(args.bias + off(expert, args.hidden) + column);
      }
      float* const to = master + nth_bit(mask, n) * kAtomRows + at.row;
      sts(to, fma(weight, value, lds(to)));
    }
  }
}

// From the sums y of 16 columns to the outputs, by the whole block. sum(i): of token i / 16, column i % 16.
template <class Sum>
SMOE_DEVICE void finish_columns(const DownCombineArgs& args, int64_t column0, Sum sum) {
  const int tokens = ldg(args.num_tokens);
  for (int i = tid(); i < args.max_tokens * kAtomRows; i += nthreads()) {
    const int token = i / kAtomRows;
    const int64_t column = column0 + i % kAtomRows, at = off(token, args.hidden) + column;
    if (column >= args.hidden) continue;
    if (token >= tokens) {
      stg(args.out + at, 0.0f);
      continue;
    }
    float y = sum(i);
    if (args.shared != nullptr) {
      y = fma(args.shared_scale != nullptr ? ldg(args.shared_scale + token) : 1.0f, ldg(args.shared + at), y);
    }
    if (args.update_out != nullptr) stg(args.update_out + at, y);
    stg(args.out + at, residual_step(args.step, args.state, args.residual, at, y));
  }
}

// NT, bf16_only, XP: as in gate_up. One block per row block of W2.
template <int NT, bool bf16_only, int XP>
SMOE_KERNEL(kExpertThreads, 1)
down_combine(DownCombineArgs args) {
  SMOE_SMEM_DYN(float, masters);  // [warps][8 NT tokens][16]
  float* const master = masters + warp() * NT * 8 * kAtomRows;
  for (int i = lane(); i < NT * 8 * kAtomRows; i += 32) sts(master + i, 0.0f);
  pdl_wait();
  sync_warp();
  const int64_t column0 = int64_t{bid()} * kAtomRows;
  const int active = ldg(args.plan.active_count);
  for (int i = 0; i < active; ++i) {
    const int expert = ldg(args.plan.active + i);
    const uint64_t mask = ldg(args.plan.mask + expert);
    const int count = popc(mask), row0 = ldg(args.plan.offset + expert);
    const bf16* row[NT];
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      const int n = tile * 8 + lane() / 4;
      row[tile] = n < count ? args.h.data + off(row0 + n, args.width) : nullptr;
    }
    float acc[NT][4] = {};
    multiply_rows<NT, bf16_only, XP>(load_matrix<bf16_only>(args.weights + expert), bid(), (count + 7) / 8, row, args.h,
                                     args.width, acc);
    scatter_weighted<NT>(args, mask, count, row0, expert, column0, acc, master);
    sync_warp();  // another lane may hold the same token next
  }
  sync();
  pdl_trigger();
  finish_columns(args, column0, [&](int i) {
    float y = 0;
    for (int w = 0; w < kExpertWarps; ++w) y += lds(masters + w * NT * 8 * kAtomRows + i);
    return y;
  });
}

}  // namespace smoe::cu
