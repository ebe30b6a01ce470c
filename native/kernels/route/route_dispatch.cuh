// K1: router logits, selection and dispatch of up to 64 tokens in one launch (specs/cuda-kernels.md 2.3). Blocks make
// sums over ranges of K; the last to arrive for a group of eight tokens adds them up and routes these tokens; the last
// group builds the dispatch. Nobody waits, and only who adds varies from run to run, never the order of additions.
#pragma once

#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/route/route_select.cuh"
#include "kernels/route/router_gemm.cuh"

namespace smoe::cu {

constexpr int kRouteThreads = 32 * kRouterWarps;
constexpr int kRouterTokens = 64;
constexpr int kRouteGroup = 8;  // tokens per ticket: one per warp
constexpr int kRouteGroups = kRouterTokens / kRouteGroup;

// A block has M row tiles and takes N token tiles at a time: every thread has one sum of them over the warps, and two
// tensor instructions do not wait for each other.
template <int M>
constexpr int kRouteTiles = 2 / M;
template <int M>
constexpr int kRouteStep = 8 * kRouteTiles<M>;  // tokens

// Inputs come by asynchronous copies into memory of the warp that reads them, a stage of two chunks of a step's tokens
// each. Stages under way are what hides L2 at 64 tokens. Rows are 16 bytes apart in the banks, so that the eight lanes
// of a quarter, two rows of four pieces every 32 bytes, find all of them.
constexpr int kRouteAhead = 2;
constexpr int kRoutePitch = kRouteAhead * kRouterChunk + 4;  // floats
template <int M>
constexpr int kRouteStage = kRouteStep<M> * kRoutePitch;
template <int M>
constexpr int kRouteStages = 4 / kRouteTiles<M>;
constexpr size_t kRouteInputBytes = kRouterWarps * 4 * 8 * kRoutePitch * sizeof(float);

inline int64_t route_blocks(int64_t experts, int splits) {
  const int64_t rows = kRouterRows * route_row_tiles(experts);
  return (experts + rows - 1) / rows * splits;
}

// Sums of the warps over one step, two steps alternating. Four floats more than the rows of a block: what the lanes of
// a store have apart.
template <int M>
constexpr int kRouteSumPitch = M * kRouterRows + 4;
template <int M>
constexpr int kRouteSums = kRouterWarps * kRouteStep<M> * kRouteSumPitch<M>;

// Inputs, then logits and keys of eight tokens; behind them the sums of the warps, then the dispatch.
template <int M>
size_t route_shared_bytes(int64_t experts) {
  const size_t select = kRouterWarps * 2 * static_cast<size_t>(experts) * sizeof(float);
  const size_t sums = 2 * kRouteSums<M> * sizeof(float), plan = dispatch_shared_bytes(experts);
  return (select > kRouteInputBytes ? select : kRouteInputBytes) + (sums > plan ? sums : plan);
}
SMOE_DEVICE float* route_second_region(float* shared, int experts) {
  const int select = kRouterWarps * 2 * experts, input = static_cast<int>(kRouteInputBytes / sizeof(float));
  return shared + (select > input ? select : input);
}

// Two chunks of the rows of a block, as they come from memory.
template <class W, int M>
struct RouteWeights {
  U32x4 raw[kRouteAhead][M][2][router_words<W>];  // upper and lower row of each tile
};
template <class W, int M>
SMOE_DEVICE void route_load(const W* w, int row0, int experts, int64_t hidden, int chunk, int end,
                            RouteWeights<W, M>& out) {
  SMOE_UNROLL
  for (int i = 0; i < kRouteAhead; ++i) {
    const int64_t k = off(chunk + i, kRouterChunk) + 8 * (lane() % 4);
    const bool real = chunk + i < end && k < hidden;
    SMOE_UNROLL
    for (int row = 0; row < 2 * M; ++row) {
      const int expert = row0 + 8 * row + lane() / 4;
      SMOE_UNROLL
      for (int word = 0; word < router_words<W>; ++word) {
        const U32x4* const from = reinterpret_cast<const U32x4*>(w + off(expert, hidden) + k) + word;
        out.raw[i][row / 2][row % 2][word] = real && expert < experts ? ldg(from) : U32x4{{0, 0, 0, 0}};
      }
    }
  }
}

// The stages of a warp: steps of tokens, and within a step the chunks of the warp's share, two at a time.
struct RouteFeed {
  Chunks share;
  int first, chunk, slot;  // token, chunk and stage of the next copy
};
template <int M>
SMOE_DEVICE void route_feed(const RouteDispatchArgs& args, int tokens, RouteFeed& feed, float* stages) {
  if (feed.first < tokens) {
    SMOE_UNROLL
    for (int i = 0; i < kRouteStep<M> / 2; ++i) {
      const int row = 2 * i + lane() / 16, token = feed.first + row, column = 4 * (lane() % 16);
      if (i % 4 == 0 && feed.first + 2 * i >= tokens) break;  // a tile that is not multiplied
      const int64_t k = off(feed.chunk, kRouterChunk) + column;
      const bool real = token < tokens && k < args.hidden && feed.chunk + column / kRouterChunk < feed.share.end;
      cp16(stages + feed.slot * kRouteStage<M> + row * kRoutePitch + column,
           args.x + (real ? off(token, args.hidden) + k : 0), real);
    }
    feed.slot = (feed.slot + 1) % kRouteStages<M>;
    feed.chunk += kRouteAhead;
    if (feed.chunk >= feed.share.end) {
      feed.chunk = feed.share.begin;
      feed.first += kRouteStep<M>;
    }
  }
  cp_commit();
}

// N tiles of one stage: its chunks, if they are the share's.
template <class W, int M, int N>
SMOE_DEVICE void route_multiply(const RouteWeights<W, M>& weights, const float* stage, int chunks,
                                float (&acc)[M][N][4]) {
  SMOE_UNROLL
  for (int i = 0; i < kRouteAhead; ++i) {
    if (i >= chunks) break;
    RouterRows<W> rows[M];
    SMOE_UNROLL
    for (int m = 0; m < M; ++m) {
      router_split(weights.raw[i][m][0], rows[m].upper);
      router_split(weights.raw[i][m][1], rows[m].lower);
    }
    uint32_t column[N][3][4];
    SMOE_UNROLL
    for (int n = 0; n < N; ++n) {
      const float* const from = stage + (8 * n + lane() / 4) * kRoutePitch + i * kRouterChunk + 8 * (lane() % 4);
      const U32x4 raw[2] = {lds(reinterpret_cast<const U32x4*>(from)), lds(reinterpret_cast<const U32x4*>(from + 4))};
      router_split(raw, column[n]);
    }
    router_multiply<W, M, N>(rows, column, acc);
  }
}

template <int M, int From, int To>
SMOE_DEVICE void copy_tile(const float (&from)[M][From][4], float (&to)[M][To][4]) {
  SMOE_UNROLL
  for (int m = 0; m < M; ++m) {
    SMOE_UNROLL
    for (int reg = 0; reg < 4; ++reg) to[m][0][reg] = from[m][0][reg];
  }
}

// This block's experts over its range of K: partials[split][token][expert]. The first weights, which are constant, are
// asked for before the launch before this one has ended; `tokens` comes after.
template <class W, int M>
SMOE_DEVICE int route_partials(const RouteDispatchArgs& args, float* stages, float* sums) {
  const int experts = static_cast<int>(args.config.experts);
  const int split = bid() % args.splits, row0 = bid() / args.splits * (kRouterRows * M);
  const Chunks range = router_range(router_chunks(args.hidden), args.splits, split);
  const Chunks share{share_begin(range, warp()), share_begin(range, warp() + 1)};
  const W* const w = static_cast<const W*>(args.w);
  RouteWeights<W, M> weights;
  route_load<W, M>(w, row0, experts, args.hidden, share.begin, share.end, weights);
  pdl_wait();
  const int given = ldg(args.num_tokens), tokens = given < 0 ? 0 : given < kRouterTokens ? given : kRouterTokens;
  constexpr int kTiles = kRouteTiles<M>, kStep = kRouteStep<M>;
  float* const mine = stages + warp() * kRouteStages<M> * kRouteStage<M>;
  RouteFeed feed{share, share.begin < share.end ? 0 : kRouterTokens, share.begin, 0};
  SMOE_UNROLL1
  for (int i = 0; i < kRouteStages<M>; ++i) route_feed<M>(args, tokens, feed, mine);
  const bool kept = share.end - share.begin <= kRouteAhead;  // all weights of the warp stay in registers
  int slot = 0;
  SMOE_UNROLL1
  for (int first = 0; first < tokens; first += kStep) {
    float acc[M][kTiles][4] = {};
    SMOE_UNROLL1
    for (int chunk = share.begin; chunk < share.end; chunk += kRouteAhead) {
      if (!kept && (first > 0 || chunk > share.begin)) {
        route_load<W, M>(w, row0, experts, args.hidden, chunk, share.end, weights);
      }
      cp_wait<kRouteStages<M> - 1>();
      sync_warp();
      const float* const stage = mine + slot * kRouteStage<M>;
      if (kTiles == 1 || tokens - first > 8) {
        route_multiply<W, M, kTiles>(weights, stage, share.end - chunk, acc);
      } else {
        float one[M][1][4];
        copy_tile(acc, one);
        route_multiply<W, M, 1>(weights, stage, share.end - chunk, one);
        copy_tile(one, acc);
      }
      sync_warp();
      route_feed<M>(args, tokens, feed, mine);
      slot = (slot + 1) % kRouteStages<M>;
    }
    float* const to = sums + first / kStep % 2 * kRouteSums<M>;
    SMOE_UNROLL
    for (int m = 0; m < M; ++m) {
      SMOE_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        SMOE_UNROLL
        for (int reg = 0; reg < 4; ++reg) {
          const Element at = c_element(lane(), reg);
          sts(to + (warp() * kStep + 8 * n + at.col) * kRouteSumPitch<M> + m * kRouterRows + at.row, acc[m][n][reg]);
        }
      }
    }
    sync();
    // The sums of the step after the next come behind another barrier.
    static_assert(kStep * kRouterRows * M == kRouteThreads, "one sum per thread");
    const int column = tid() / (kRouterRows * M), row = tid() % (kRouterRows * M), token = first + column;
    float sum = 0;
    SMOE_UNROLL
    for (int i = 0; i < kRouterWarps; ++i) sum += lds(to + (i * kStep + column) * kRouteSumPitch<M> + row);
    if (token < tokens && row0 + row < experts) {
      stg(args.partials + off(split * kRouterTokens + token, experts) + row0 + row, sum);
    }
  }
  return tokens;
}

// A group's logits from the sums of all blocks: sanitised, [8][E].
SMOE_DEVICE void route_logits(const RouteDispatchArgs& args, int first, int tokens, float* logits) {
  const int experts = static_cast<int>(args.config.experts), part = route_part(args.splits);
  const int count = (tokens - first < kRouteGroup ? tokens - first : kRouteGroup) * experts;
  const float* const range = args.partials + off(first, experts);
  float* const trace = args.logits != nullptr ? args.logits + off(first, experts) : nullptr;
  router_finish(range, off(kRouterTokens, experts), args.splits, part, args.router_bias, experts, count, tid(),
                kRouteThreads, logits, trace);
}

// M: row tiles of a block; E <= 32 R.
template <class W, int M, int R>
SMOE_KERNEL(kRouteThreads, 1)
route_dispatch(RouteDispatchArgs args) {
  SMOE_SMEM_DYN(float, shared);
  SMOE_SMEM(uint32_t, last_of, kRouteGroups);
  SMOE_SMEM(uint32_t, all_done, 1);
  const int experts = static_cast<int>(args.config.experts), k = args.config.k;
  float* const behind = route_second_region(shared, experts);
  const int tokens = route_partials<W, M>(args, shared, behind);
  const DispatchShared plan = dispatch_shared(behind, experts);
  const int groups = (tokens + kRouteGroup - 1) / kRouteGroup;
  sync();
  if (tid() < groups) {
    fence_gpu();
    const uint32_t blocks = static_cast<uint32_t>(nblocks());
    sts(last_of + tid(), ticket_add(args.tickets + tid(), blocks) + 1 == blocks ? 1u : 0u);
  }
  sync();
  uint32_t finished = 0;
  SMOE_UNROLL1
  for (int group = 0; group < groups; ++group) {
    if (lds(last_of + group) == 0) continue;
    if (finished++ == 0) pdl_trigger();
    const int token = group * kRouteGroup + warp();
    if (finished > 1) sync();
    if (groups == 1) dispatch_clear(plan, experts);
    route_logits(args, group * kRouteGroup, tokens, shared);
    sync();
    RouteSlot slot{-1, 0, 0};
    if (token < tokens) {
      slot = route_pick<R>(args.config, args.select_bias, shared + warp() * experts,
                           shared + (kRouterWarps + warp()) * experts);
    }
    if (groups == 1) {
      // This block routes all tokens: the plan is made while weights are.
      dispatch_mark(plan, experts, warp(), slot.id);
      sync();
      dispatch_plan(plan, experts, args.plan);
    }
    if (token < tokens) {
      route_store(args.config, slot, args.routing.ids + token * k, args.routing.weights + token * k,
                  args.routing.count + token);
    }
    if (groups == 1) {
      sync();
      if (token < tokens && lane() < k) {
        dispatch_place(plan, experts, token * k + lane(), token, slot.id, slot.weight, args.plan);
      }
      return;
    }
  }
  if (groups > 0) {
    if (finished == 0) return;
    sync();
    if (tid() == 0) {
      fence_gpu();
      uint32_t done = 0;
      SMOE_UNROLL1
      for (uint32_t i = 0; i < finished; ++i) {
        done |= ticket_add(args.tickets + kRouteGroups, groups) + 1 == static_cast<uint32_t>(groups);
      }
      sts(all_done, done);
    }
    sync();
    if (lds(all_done) == 0) return;
  } else if (bid() != 0) {
    return;
  }
  dispatch_bits(args.routing.ids, args.routing.weights, tokens, k, experts, plan, args.plan);
}

// Given routes (hash routing, a caller's own): the dispatch alone, one block.
SMOE_KERNEL(kRouteThreads, 1) dispatch_given(DispatchGivenArgs args) {
  SMOE_SMEM_DYN(uint64_t, shared);
  pdl_wait();
  const int given = ldg(args.num_tokens), tokens = given < 0 ? 0 : given < 64 ? given : 64;
  dispatch_bits(args.ids, args.weights, tokens, args.slots, args.experts, dispatch_shared(shared, args.experts),
                args.plan);
}

}  // namespace smoe::cu
