// K1: router logits, selection and dispatch of up to 64 tokens in one launch (specs/cuda-kernels.md 2.3). Blocks make
// partial logits; the last to arrive for a group of eight tokens adds them up and routes these tokens; the last group
// builds the dispatch. Nobody waits, and only who adds varies from run to run, never the order of additions.
#pragma once

#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/route/route_select.cuh"
#include "kernels/route/router_gemm.cuh"

namespace smoe::cu {

constexpr int kRouteThreads = 32 * kRouterWarps;
constexpr int kRouteGroup = 8;  // tokens per ticket: one per warp

inline int64_t route_blocks(int64_t experts, int splits) { return (experts + kRouterRows - 1) / kRouterRows * splits; }

// Warp partials while multiplying; afterwards three rows of E floats per warp; at the end masks and offsets.
inline size_t route_shared_bytes(int64_t experts) {
  const size_t multiply = kRouterWarps * kRouterTokens * kRouterRows * sizeof(float);
  const size_t select = kRouterWarps * 3 * static_cast<size_t>(experts) * sizeof(float);
  return multiply > select ? multiply : select;
}

// This block's 16 experts over its K range: partials[split][token][expert].
template <class W>
SMOE_DEVICE void route_partials(const RouteDispatchArgs& args, int tokens, float* shared) {
  const int experts = static_cast<int>(args.config.experts);
  const int split = bid() % args.splits, row0 = bid() / args.splits * kRouterRows;
  const int64_t chunks = (args.hidden + kRouterChunk - 1) / kRouterChunk;
  const int64_t begin = chunks * split / args.splits * kRouterChunk;
  const int64_t stop = chunks * (split + 1) / args.splits * kRouterChunk;
  float acc[kRouterTokens / 8][4] = {};
  router_tile(static_cast<const W*>(args.w), args.x, row0, experts, tokens, args.hidden, begin,
              stop < args.hidden ? stop : args.hidden, acc);
  SMOE_UNROLL
  for (int tile = 0; tile < kRouterTokens / 8; ++tile) {
    if (tile * 8 >= tokens) break;
    SMOE_UNROLL
    for (int reg = 0; reg < 4; ++reg) {
      const Element at = c_element(lane(), reg);
      sts(shared + (warp() * kRouterTokens + tile * 8 + at.col) * kRouterRows + at.row, acc[tile][reg]);
    }
  }
  sync();
  for (int i = tid(); i < tokens * kRouterRows; i += nthreads()) {
    const int row = i % kRouterRows, token = i / kRouterRows;
    float sum = 0;
    for (int w = 0; w < kRouterWarps; ++w) sum += lds(shared + w * kRouterTokens * kRouterRows + i);
    if (row0 + row < experts) stg(args.partials + off(split * kRouterTokens + token, experts) + row0 + row, sum);
  }
}

// One token by one warp, from the partial sums.
SMOE_DEVICE void route_finish(const RouteDispatchArgs& args, int token, float* logits) {
  const int experts = static_cast<int>(args.config.experts);
  for (int e = lane(); e < experts; e += 32) {
    float sum = 0;
    for (int s = 0; s < args.splits; ++s) sum += ldg(args.partials + off(s * kRouterTokens + token, experts) + e);
    if (args.router_bias != nullptr) sum += ldg(args.router_bias + e);
    if (args.logits != nullptr) stg(args.logits + off(token, experts) + e, sum);
    sts(logits + e, route_sanitised(sum));
  }
  sync_warp();
  const int k = args.config.k;
  route_one_token(args.config, args.select_bias, logits, logits + experts, logits + 2 * experts,
                  args.routing.ids + token * k, args.routing.weights + token * k, args.routing.count + token);
  sync_warp();
}

template <class W>
SMOE_KERNEL(kRouteThreads, 1)
route_dispatch(RouteDispatchArgs args) {
  SMOE_SMEM_DYN(float, shared);
  SMOE_SMEM(uint32_t, last_of, kRouterTokens / kRouteGroup);
  SMOE_SMEM(uint32_t, all_done, 1);
  pdl_wait();
  const int experts = static_cast<int>(args.config.experts);
  const int given = ldg(args.num_tokens), tokens = given < 0 ? 0 : given < kRouterTokens ? given : kRouterTokens;
  const int groups = (tokens + kRouteGroup - 1) / kRouteGroup;
  uint64_t* const mask = reinterpret_cast<uint64_t*>(shared);
  int32_t* const offset = reinterpret_cast<int32_t*>(shared + 2 * experts);
  if (tokens == 0) {
    if (bid() == 0)
      dispatch_bits(args.routing.ids, args.routing.weights, 0, args.config.k, experts, mask, offset, args.plan);
    return;
  }
  route_partials<W>(args, tokens, shared);
  sync();
  if (tid() < groups) {
    fence_gpu();
    const uint32_t blocks = static_cast<uint32_t>(nblocks());
    sts(last_of + tid(), ticket_add(args.tickets + tid(), blocks) + 1 == blocks ? 1u : 0u);
  }
  sync();
  uint32_t finished = 0;
  for (int group = 0; group < groups; ++group) {
    if (lds(last_of + group) == 0) continue;
    ++finished;
    const int token = group * kRouteGroup + warp();
    if (token < tokens) route_finish(args, token, shared + warp() * 3 * experts);
  }
  if (finished == 0) return;
  sync();
  pdl_trigger();
  if (tid() == 0) {
    fence_gpu();
    uint32_t done = 0;
    for (uint32_t i = 0; i < finished; ++i) {
      done |= ticket_add(args.tickets + kRouterTokens / kRouteGroup, groups) + 1 == static_cast<uint32_t>(groups);
    }
    sts(all_done, done);
  }
  sync();
  if (lds(all_done) != 0)
    dispatch_bits(args.routing.ids, args.routing.weights, tokens, args.config.k, experts, mask, offset, args.plan);
}

// Given routes (hash routing, a caller's own): the dispatch alone, one block.
inline size_t dispatch_shared_bytes(int64_t experts) { return static_cast<size_t>(experts) * 12; }

SMOE_KERNEL(kRouteThreads, 1) dispatch_given(DispatchGivenArgs args) {
  SMOE_SMEM_DYN(uint64_t, mask);
  pdl_wait();
  const int given = ldg(args.num_tokens), tokens = given < 0 ? 0 : given < 64 ? given : 64;
  dispatch_bits(args.ids, args.weights, tokens, args.slots, args.experts, mask,
                reinterpret_cast<int32_t*>(mask + args.experts), args.plan);
}

}  // namespace smoe::cu
