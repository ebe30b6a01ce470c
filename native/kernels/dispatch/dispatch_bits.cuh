// Dispatch of up to 64 tokens as bit masks (specs/cuda-kernels.md 2.3): no sort, nothing that depends on order. By one
// whole block, in steps: masks cleared, masks set, the plan of all experts, the rows of all pairs.
#pragma once

#include "cuda/cu.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

// Row of token t inside its expert: the tokens before it.
SMOE_DEVICE int dispatch_rank(uint64_t mask, int token) { return popc(mask & ((uint64_t{1} << token) - 1)); }

// Shared memory: E masks, E + 1 offsets, and a tally for every 32 experts, of which one warp can add up 32.
struct DispatchShared {
  uint64_t* mask;
  int32_t* offset;
  uint32_t* tally;
};
SMOE_DEVICE DispatchShared dispatch_shared(void* memory, int experts) {
  uint32_t* const tally = static_cast<uint32_t*>(memory);
  uint64_t* const mask = reinterpret_cast<uint64_t*>(tally + 32);
  return {mask, reinterpret_cast<int32_t*>(mask + experts), tally};
}
inline size_t dispatch_shared_bytes(int64_t experts) {
  return (32 + 3 * static_cast<size_t>(experts)) * sizeof(uint32_t);
}

SMOE_DEVICE void dispatch_clear(const DispatchShared& shared, int experts) {
  SMOE_UNROLL1
  for (int e = tid(); e < experts; e += nthreads()) sts(shared.mask + e, uint64_t{0});
}
SMOE_DEVICE void dispatch_mark(const DispatchShared& shared, int experts, int token, int id) {
  if (id >= 0 && id < experts) atomic_or_shared(shared.mask + id, uint64_t{1} << token);
}

// From the masks, which are complete behind a barrier: offsets, for the block behind another one, and the plan but for
// its pairs. Each warp has every eighth 32 experts or so; what lies before
// them is added up from the tallies.
SMOE_DEVICE void dispatch_plan(const DispatchShared& shared, int experts, const DispatchBits& out) {
  const int warps = nthreads() / 32, parts = (experts + 31) / 32;
  // The last warps first: those that have least to do after a selection.
  const int first = warps - 1 - warp();
  SMOE_UNROLL1
  for (int part = first; part < parts; part += warps) {
    const int e = part * 32 + lane();
    const uint64_t bits = e < experts ? lds(shared.mask + e) : 0;
    const int count = popc(bits);
    int through = count;  // becomes the inclusive sum over lanes
    SMOE_UNROLL
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = shfl_up(through, delta);
      if (lane() >= delta) through += other;
    }
    if (e < experts) {
      sts(shared.offset + e, through - count);
      stg(out.mask + e, bits);
      // One block builds the plan, and launches of a stream follow one another: nobody else adds.
      if (out.expert_counts != nullptr && count > 0) {
        stg(out.expert_counts + e, ldg(out.expert_counts + e) + static_cast<uint64_t>(count));
      }
    }
    if (lane() == 31) sts(shared.tally + part, static_cast<uint32_t>(through));
  }
  sync();
  SMOE_UNROLL1
  for (int part = first; part < parts; part += warps) {
    const int e = part * 32 + lane();
    uint32_t base = lane() < part ? lds(shared.tally + lane()) : 0;
    SMOE_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) base += shfl_xor(base, bits);
    if (e < experts) {
      const int offset = static_cast<int>(base) + lds(shared.offset + e);
      sts(shared.offset + e, offset);
      stg(out.offset + e, offset);
      if (e == experts - 1) stg(out.offset + experts, offset + popc(lds(shared.mask + e)));
    }
  }
}

// Pair i of the dispatch, behind a barrier after dispatch_plan().
SMOE_DEVICE void dispatch_place(const DispatchShared& shared, int experts, int i, int token, int id, float weight,
                                const DispatchBits& out) {
  const bool used = id >= 0 && id < experts;
  const int row = used ? lds(shared.offset + id) + dispatch_rank(lds(shared.mask + id), token) : -1;
  if (out.position != nullptr) stg(out.position + i, row);
  if (out.row_weight != nullptr && used) stg(out.row_weight + row, weight);
}

// All of it. ids [tokens, slots]; anything outside [0, experts) is an unused slot. An expert occurs at most once per
// token.
SMOE_DEVICE void dispatch_bits(const int32_t* ids, const float* weights, int tokens, int slots, int experts,
                               const DispatchShared& shared, const DispatchBits& out) {
  dispatch_clear(shared, experts);
  sync();
  SMOE_UNROLL1
  for (int i = tid(); i < tokens * slots; i += nthreads()) dispatch_mark(shared, experts, i / slots, ldg(ids + i));
  sync();
  dispatch_plan(shared, experts, out);
  if (out.position == nullptr && out.row_weight == nullptr) return;
  sync();
  SMOE_UNROLL1
  for (int i = tid(); i < tokens * slots; i += nthreads()) {
    dispatch_place(shared, experts, i, i / slots, ldg(ids + i), out.row_weight != nullptr ? ldg(weights + i) : 0.0f,
                   out);
  }
}

}  // namespace smoe::cu
