// Dispatch of up to 64 tokens as bit masks (specs/cuda-kernels.md 2.3): no sort, nothing that depends on order.
#pragma once

#include "cuda/cu.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

// Row of token t inside its expert: the tokens before it.
SMOE_DEVICE int dispatch_rank(uint64_t mask, int token) { return popc(mask & ((uint64_t{1} << token) - 1)); }

// By one whole block. ids [tokens, slots]; anything outside [0, experts) is an unused slot. mask, offset: E and E + 1
// elements of shared memory. An expert occurs at most once per token.
SMOE_DEVICE void dispatch_bits(const int32_t* ids, const float* weights, int tokens, int slots, int experts,
                               uint64_t* mask, int32_t* offset, const DispatchBits& out) {
  for (int e = tid(); e < experts; e += nthreads()) sts(mask + e, uint64_t{0});
  sync();
  for (int i = tid(); i < tokens * slots; i += nthreads()) {
    const int id = ldg(ids + i);
    if (id >= 0 && id < experts) atomic_or_shared(mask + id, uint64_t{1} << (i / slots));
  }
  sync();
  if (warp() == 0) {
    int base = 0, active = 0;
    for (int first = 0; first < experts; first += 32) {
      const int e = first + lane();
      const uint64_t bits = e < experts ? lds(mask + e) : 0;
      const int count = popc(bits);
      int before = count;  // becomes the inclusive sum over lanes
      for (int delta = 1; delta < 32; delta *= 2) {
        const int other = shfl_up(before, delta);
        if (lane() >= delta) before += other;
      }
      const uint32_t used = ballot(count > 0);
      if (e < experts) {
        sts(offset + e, base + before - count);
        stg(out.offset + e, base + before - count);
        stg(out.mask + e, bits);
        // One block builds the plan, and launches of a stream follow one another: nobody else adds.
        if (out.expert_counts != nullptr) {
          stg(out.expert_counts + e, ldg(out.expert_counts + e) + static_cast<uint64_t>(count));
        }
        if (count > 0) stg(out.active + active + popc(used & ((1u << lane()) - 1)), e);
      }
      base += shfl(before, 31);
      active += popc(used);
    }
    if (lane() == 0) {
      stg(out.offset + experts, base);
      stg(out.active_count, active);
    }
  }
  if (out.position == nullptr && out.row_weight == nullptr) return;
  sync();
  for (int i = tid(); i < tokens * slots; i += nthreads()) {
    const int id = ldg(ids + i);
    const bool used = id >= 0 && id < experts;
    const int row = used ? lds(offset + id) + dispatch_rank(lds(mask + id), i / slots) : -1;
    if (out.position != nullptr) stg(out.position + i, row);
    if (out.row_weight != nullptr && used) stg(out.row_weight + row, ldg(weights + i));
  }
}

}  // namespace smoe::cu
