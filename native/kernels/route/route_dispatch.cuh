// K1: router logits, selection and dispatch of up to 64 tokens in one launch (specs/cuda-kernels.md 2.3). Blocks make
// sums over ranges of K for a group of tokens; the last to arrive for a group adds them up and routes its tokens; the
// last group builds the dispatch. Nobody waits, and only who adds varies from run to run, never the order of additions.
#pragma once

#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/route/route_select.cuh"
#include "kernels/route/router_gemm.cuh"

namespace smoe::cu {

constexpr int kRouteThreads = 32 * kRouterWarps;
constexpr int kRouterTokens = 64;
constexpr int kRouteStep = 8;  // tokens at a time: one per warp, and a tile of a tensor instruction
// Tokens of a block. Groups are routed by different blocks at the same time. Where a block has two row tiles there are
// so many blocks that weights, read once for each group, would hold up.
SMOE_HD constexpr int route_group(int row_tiles) { return row_tiles * kRouteStep; }

// Inputs come by asynchronous copies into memory of the warp that reads them, a stage of two chunks of a step's tokens
// each. Rows are 32 bytes apart in the banks, so that half a warp, four rows of four pairs, finds all of them.
constexpr int kRouteAhead = 2, kRouteStages = 4;
constexpr int kRoutePitch = kRouteAhead * kRouterChunk + 8, kRouteStage = kRouteStep * kRoutePitch;  // floats
constexpr size_t kRouteInputBytes = kRouterWarps * kRouteStages * kRouteStage * sizeof(float);

// Of one group.
inline int64_t route_blocks(int64_t experts, int splits) {
  const int64_t rows = kRouterRows * route_row_tiles(experts);
  return (experts + rows - 1) / rows * splits;
}

// Sums of the warps over one step, two steps alternating. Four floats more than the rows of a block: what the lanes of
// a store have apart.
template <int M>
constexpr int kRouteSumPitch = M * kRouterRows + 4;
template <int M>
constexpr int kRouteSums = kRouterWarps * kRouteStep * kRouteSumPitch<M>;

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
  RouterPair<W> raw[kRouteAhead][M][2][4];  // upper and lower row of each tile
};
template <class W, int M>
SMOE_DEVICE void route_load(const W* w, int row0, int experts, int64_t hidden, int chunk, int end,
                            RouteWeights<W, M>& out) {
  SMOE_UNROLL
  for (int i = 0; i < kRouteAhead; ++i) {
    const int64_t first = off(chunk + i, kRouterChunk);
    SMOE_UNROLL
    for (int row = 0; row < 2 * M; ++row) {
      const int expert = row0 + 8 * row + lane() / 4;
      const W* const from = w + off(expert, hidden) + first + 2 * (lane() % 4);
      SMOE_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        const bool real = chunk + i < end && first + 8 * pair < hidden && expert < experts;
        out.raw[i][row / 2][row % 2][pair] =
            real ? ldg(reinterpret_cast<const RouterPair<W>*>(from + 8 * pair)) : RouterPair<W>{};
      }
    }
  }
}

// The stages of a warp: steps of tokens, and within a step the chunks of the warp's share, two at a time.
struct RouteFeed {
  Chunks share;
  int first, chunk, slot;  // token, chunk and stage of the next copy
};
SMOE_DEVICE void route_feed(const RouteDispatchArgs& args, int tokens, RouteFeed& feed, float* stages) {
  if (feed.first < tokens) {
    SMOE_UNROLL
    for (int i = 0; i < kRouteStep / 2; ++i) {
      const int row = 2 * i + lane() / 16, token = feed.first + row, column = 4 * (lane() % 16);
      const int64_t k = off(feed.chunk, kRouterChunk) + column;
      const bool real = token < tokens && k < args.hidden && feed.chunk + column / kRouterChunk < feed.share.end;
      cp16(stages + feed.slot * kRouteStage + row * kRoutePitch + column,
           args.x + (real ? off(token, args.hidden) + k : 0), real);
    }
    feed.slot = (feed.slot + 1) % kRouteStages;
    feed.chunk += kRouteAhead;
    if (feed.chunk >= feed.share.end) {
      feed.chunk = feed.share.begin;
      feed.first += kRouteStep;
    }
  }
  cp_commit();
}

// One stage: its chunks, if they are the share's.
template <class W, int M>
SMOE_DEVICE void route_multiply(const RouteWeights<W, M>& weights, const float* stage, int chunks,
                                float (&acc)[M][1][4]) {
  SMOE_UNROLL
  for (int i = 0; i < kRouteAhead; ++i) {
    if (i >= chunks) break;
    RouterRows<W> rows[M];
    SMOE_UNROLL
    for (int m = 0; m < M; ++m) {
      router_rows<W>(weights.raw[i][m][0], weights.raw[i][m][1], rows[m]);
    }
    uint32_t column[1][3][4];
    router_column(stage + lane() / 4 * kRoutePitch + i * kRouterChunk, column[0]);
    router_multiply<W, 0, M>(rows, column, acc);
  }
}

// Args: RouteDispatchArgs, DispatchGivenArgs.
template <class Args>
SMOE_DEVICE int route_tokens(const Args& args) {
  if (args.num_tokens == nullptr) return args.max_tokens;
  const int given = ldg(args.num_tokens);
  return given < 0 ? 0 : given < args.max_tokens ? given : args.max_tokens;
}

// This block's experts and tokens over its range of K: partials[split][token][expert]. The first weights, which are
// constant, and the number of tokens are asked for before the launch before this one has ended.
template <class W, int M>
SMOE_DEVICE int route_partials(const RouteDispatchArgs& args, int group, int block, float* stages, float* sums) {
  const int experts = static_cast<int>(args.config.experts);
  const int split = block % args.splits, row0 = block / args.splits * (kRouterRows * M);
  const Chunks range = router_range(router_chunks(args.hidden), args.splits, split);
  const Chunks share{share_begin(range, warp()), share_begin(range, warp() + 1)};
  const W* const w = static_cast<const W*>(args.w);
  RouteWeights<W, M> weights;
  route_load<W, M>(w, row0, experts, args.hidden, share.begin, share.end, weights);
  const int all = route_tokens(args);
  pdl_wait();
  const int begin = group * route_group(M), end = begin + route_group(M) < all ? begin + route_group(M) : all;
  float* const mine = stages + warp() * kRouteStages * kRouteStage;
  RouteFeed feed{share, share.begin < share.end ? begin : end, share.begin, 0};
  SMOE_UNROLL1
  for (int i = 0; i < kRouteStages; ++i) route_feed(args, end, feed, mine);
  const bool kept = share.end - share.begin <= kRouteAhead;  // all weights of the warp stay in registers
  int slot = 0;
  SMOE_UNROLL1
  for (int first = begin; first < end; first += kRouteStep) {
    float acc[M][1][4] = {};
    SMOE_UNROLL1
    for (int chunk = share.begin; chunk < share.end; chunk += kRouteAhead) {
      if (!kept && (first > begin || chunk > share.begin)) {
        route_load<W, M>(w, row0, experts, args.hidden, chunk, share.end, weights);
      }
      cp_wait<kRouteStages - 1>();
      sync_warp();
      route_multiply<W, M>(weights, mine + slot * kRouteStage, share.end - chunk, acc);
      sync_warp();
      route_feed(args, end, feed, mine);
      slot = (slot + 1) % kRouteStages;
    }
    float* const to = sums + first / kRouteStep % 2 * kRouteSums<M>;
    SMOE_UNROLL
    for (int m = 0; m < M; ++m) {
      SMOE_UNROLL
      for (int reg = 0; reg < 4; ++reg) {
        const Element at = c_element(lane(), reg);
        sts(to + (warp() * kRouteStep + at.col) * kRouteSumPitch<M> + m * kRouterRows + at.row, acc[m][0][reg]);
      }
    }
    sync();
    // The sums of the step after the next come behind another barrier.
    const int column = tid() / (kRouterRows * M), row = tid() % (kRouterRows * M), token = first + column;
    if (column < kRouteStep && token < end && row0 + row < experts) {
      float sum = 0;
      SMOE_UNROLL
      for (int i = 0; i < kRouterWarps; ++i) sum += lds(to + (i * kRouteStep + column) * kRouteSumPitch<M> + row);
      stg(args.partials + off(split * kRouterTokens + token, experts) + row0 + row, sum);
    }
  }
  return all;
}

// A step's logits from the sums of all blocks: sanitised, [8][E].
SMOE_DEVICE void route_logits(const RouteDispatchArgs& args, int first, int tokens, float* logits) {
  const int experts = static_cast<int>(args.config.experts), part = route_part(args.splits);
  const int count = (tokens - first < kRouteStep ? tokens - first : kRouteStep) * experts;
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
  SMOE_SMEM(uint32_t, last, 2);  // of the group, of all groups
  const int experts = static_cast<int>(args.config.experts), k = args.config.k;
  const int row_blocks = (experts + kRouterRows * M - 1) / (kRouterRows * M), blocks = row_blocks * args.splits;
  const int group = bid() / blocks;
  float* const behind = route_second_region(shared, experts);
  const int tokens = route_partials<W, M>(args, group, bid() % blocks, shared, behind);
  const DispatchShared plan = dispatch_shared(behind, experts);
  const int groups = (tokens + route_group(M) - 1) / route_group(M);
  if (group >= groups && bid() > 0) return;
  const bool single = groups == 1 && tokens <= kRouteStep;  // one step: the plan is made while weights are
  if (tokens > 0) {
    sync();
    if (tid() == 0) {
      fence_gpu();
      sts(last, ticket_add(args.tickets + group, blocks) + 1 == static_cast<uint32_t>(blocks) ? 1u : 0u);
    }
    sync();
    if (lds(last) == 0) return;
    pdl_trigger();
    const int begin = group * route_group(M), end = begin + route_group(M) < tokens ? begin + route_group(M) : tokens;
    SMOE_UNROLL1
    for (int first = begin; first < end; first += kRouteStep) {
      if (first > begin) sync();
      if (single) dispatch_clear(plan, experts);
      route_logits(args, first, end, shared);
      sync();
      const int token = first + warp();
      RouteSlot slot{-1, 0, 0};
      if (token < end) {
        slot = route_pick<R>(args.config, args.select_bias, shared + warp() * experts,
                             shared + (kRouterWarps + warp()) * experts);
      }
      if (single) {
        dispatch_mark(plan, experts, warp(), slot.id);
        sync();
        dispatch_plan(plan, experts, args.plan);
      }
      if (token < end) {
        route_store(args.config, slot, args.routing.ids + token * k, args.routing.weights + token * k,
                    args.routing.count + token);
      }
      if (single) {
        sync();
        if (token < end && lane() < k) {
          dispatch_place(plan, experts, token * k + lane(), token, slot.id, slot.weight, args.plan);
        }
        return;
      }
    }
    if (groups > 1) {
      sync();
      if (tid() == 0) {
        fence_gpu();
        const uint32_t before = ticket_add(args.tickets + kRouterTokens / kRouteStep, static_cast<uint32_t>(groups));
        sts(last + 1, before + 1 == static_cast<uint32_t>(groups) ? 1u : 0u);
      }
      sync();
      if (lds(last + 1) == 0) return;
    }
    sync();
  }
  dispatch_bits(args.routing.ids, args.routing.weights, tokens, k, experts, plan, args.plan);
}

// Given routes (hash routing, a caller's own): the dispatch alone, one block.
SMOE_KERNEL(kRouteThreads, 1) dispatch_given(DispatchGivenArgs args) {
  SMOE_SMEM_DYN(uint64_t, shared);
  pdl_wait();
  dispatch_bits(args.ids, args.weights, route_tokens(args), args.slots, args.experts,
                dispatch_shared(shared, args.experts), args.plan);
}

}  // namespace smoe::cu
