// P1: router logits, selection and histogram of any number of tokens (specs/cuda-kernels.md 2.7). A block has 32 tokens
// and every expert. K1 shares a block's K range among warps and the ranges among blocks; here one warp walks the same
// parts one after another and adds them up in the same order, so that a token's logits have the same bits on both paths
// and its experts cannot depend on how many tokens came with it.
#pragma once

#include "kernels/dispatch/histogram_row.cuh"
#include "kernels/route/route_select.cuh"
#include "kernels/route/router_gemm.cuh"

namespace smoe::cu {

constexpr int kManyWarps = kManyThreads / 32;
constexpr int kManyTiles = kRouteManyTokens / 8;
constexpr int kManyStage = 4;                               // chunks of K whose inputs lie in shared memory at a time
constexpr int kManyPart = kRouteManyTokens * kRouterChunk;  // elements of one part of one chunk
constexpr size_t kManyScratch = 32 * 1024, kManyStageBytes = kManyStage * 3 * kManyPart * sizeof(bf16);
static_assert(kManyStageBytes <= kManyScratch, "the stage and the rows of the selection share memory");

// Chunks of K in K1's order of additions: by range of a block, share of a warp, then upwards.
struct RouterWalk {
  int64_t chunks;
  int splits, split, slot;
  int64_t begin, end, at;  // chunks of the range; at == chunks: done
};
enum PartEnd : int { kInside = 0, kShareEnds = 1, kRangeEnds = 2 };

SMOE_DEVICE void walk_range(RouterWalk& walk) {
  walk.slot = 0;
  do {
    ++walk.split;
    walk.begin = walk.end;
    walk.end = walk.chunks * (walk.split + 1) / walk.splits;
  } while (walk.begin == walk.end && walk.end < walk.chunks);
  walk.at = walk.begin;
}
SMOE_DEVICE RouterWalk walk_start(int64_t hidden, int splits) {
  RouterWalk walk{(hidden + kRouterChunk - 1) / kRouterChunk, splits, -1, 0, 0, 0, 0};
  walk_range(walk);
  return walk;
}
// Past the chunk at walk.at: what it was the last of. Shares without chunks add nothing, K1's zeros neither.
SMOE_DEVICE int walk_next(RouterWalk& walk) {
  walk.at += kRouterWarps;
  if (walk.at < walk.end) return kInside;
  ++walk.slot;
  walk.at = walk.begin + walk.slot;
  if (walk.slot < kRouterWarps && walk.at < walk.end) return kShareEnds;
  if (walk.end < walk.chunks) {
    walk_range(walk);
  } else {
    walk.at = walk.chunks;
  }
  return kRangeEnds;
}

// Inputs of one chunk, split once for all experts: [part][token][32], by 128 threads with eight columns each.
SMOE_DEVICE void stage_chunk(const float* x, int tokens, int64_t hidden, int64_t chunk, int thread, bf16* stage) {
  const int token = thread / 4;
  const int64_t k = chunk * kRouterChunk + 8 * (thread % 4);
  uint32_t part[3][4];
  router_load(x + off(token, hidden) + k, token < tokens && k < hidden, part);
  SMOE_UNROLL
  for (int p = 0; p < 3; ++p) {
    sts(reinterpret_cast<U32x4*>(stage + p * kManyPart + thread * 8),
        U32x4{{part[p][0], part[p][1], part[p][2], part[p][3]}});
  }
}

// acc[tile] += W[row0 .. row0+15][chunk] X[tokens of the tile][chunk]^T: the additions of router_tile().
template <class W, int TT>
SMOE_DEVICE void multiply_chunk(const W* w, const bf16* stage, int row0, int experts, int tile0, int tokens,
                                int64_t hidden, int64_t chunk, float (&acc)[TT][4]) {
  const int g = lane() / 4, t = lane() % 4;
  const int64_t k = chunk * kRouterChunk + 8 * t;
  uint32_t upper[router_parts<W>][4], lower[router_parts<W>][4];
  router_load(w + off(row0 + g, hidden) + k, row0 + g < experts && k < hidden, upper);
  router_load(w + off(row0 + g + 8, hidden) + k, row0 + g + 8 < experts && k < hidden, lower);
  SMOE_UNROLL
  for (int tile = 0; tile < TT; ++tile) {
    if ((tile0 + tile) * 8 >= tokens) break;
    U32x4 column[3];
    SMOE_UNROLL
    for (int q = 0; q < 3; ++q) {
      column[q] = lds(reinterpret_cast<const U32x4*>(stage + q * kManyPart + ((tile0 + tile) * 32 + lane()) * 8));
    }
    SMOE_UNROLL
    for (int p = 0; p < router_parts<W>; ++p) {
      SMOE_UNROLL
      for (int q = 0; q < 3; ++q) {
        if (p + q > 2) continue;
        SMOE_UNROLL
        for (int step = 0; step < 2; ++step) {
          const uint32_t a[4] = {upper[p][2 * step], lower[p][2 * step], upper[p][2 * step + 1],
                                 lower[p][2 * step + 1]};
          const uint32_t b[2] = {column[q].x[2 * step], column[q].x[2 * step + 1]};
          mma_bf16(acc[tile], a, b);
        }
      }
    }
  }
}

template <int TT>
SMOE_DEVICE void take(float (&from)[TT][4], float (&to)[TT][4]) {
  SMOE_UNROLL
  for (int tile = 0; tile < TT; ++tile) {
    SMOE_UNROLL
    for (int reg = 0; reg < 4; ++reg) {
      to[tile][reg] += from[tile][reg];
      from[tile][reg] = 0;
    }
  }
}

// logits[token][expert] of the block's tokens, before the bias. A warp has one row block and TT tiles of eight tokens
// in each round; the inputs of a stage serve all warps.
template <class W, int TT>
SMOE_DEVICE void many_logits(const RouteManyArgs& args, const float* x, int tokens, bf16* stage, float* logits) {
  const W* const w = static_cast<const W*>(args.w);
  const int experts = static_cast<int>(args.config.experts), shares = kManyTiles / TT;
  const int units = (experts + kRouterRows - 1) / kRouterRows * shares;
  for (int first = 0; first < units; first += kManyWarps) {
    const int unit = first + warp(), row0 = unit / shares * kRouterRows, tile0 = unit % shares * TT;
    const bool real = unit < units && tile0 * 8 < tokens;
    float acc[TT][4] = {}, range[TT][4] = {}, total[TT][4] = {};
    RouterWalk walk = walk_start(args.hidden, args.splits);
    while (walk.at < walk.chunks) {
      int64_t chunk[kManyStage];
      int ends[kManyStage];
      SMOE_UNROLL
      for (int i = 0; i < kManyStage; ++i) {
        chunk[i] = walk.at;
        ends[i] = walk.at < walk.chunks ? walk_next(walk) : kInside;
      }
      sync();  // everybody has read the stage before
      SMOE_UNROLL
      for (int i = 0; i < kManyStage; i += 2) {
        const int second = tid() / (kManyThreads / 2);
        const int64_t mine = second != 0 ? chunk[i + 1] : chunk[i];
        if (mine < walk.chunks) {
          stage_chunk(x, tokens, args.hidden, mine, tid() % (kManyThreads / 2), stage + (i + second) * 3 * kManyPart);
        }
      }
      sync();
      SMOE_UNROLL
      for (int i = 0; i < kManyStage; ++i) {
        if (!real || chunk[i] >= walk.chunks) break;
        multiply_chunk<W, TT>(w, stage + i * 3 * kManyPart, row0, experts, tile0, tokens, args.hidden, chunk[i], acc);
        if (ends[i] != kInside) take<TT>(acc, range);
        if (ends[i] == kRangeEnds) take<TT>(range, total);
      }
    }
    if (!real) continue;
    SMOE_UNROLL
    for (int tile = 0; tile < TT; ++tile) {
      SMOE_UNROLL
      for (int reg = 0; reg < 4; ++reg) {
        const Element at = c_element(lane(), reg);
        const int token = (tile0 + tile) * 8 + at.col, expert = row0 + at.row;
        if (token < tokens && expert < experts) sts(logits + token * experts + expert, total[tile][reg]);
      }
    }
  }
  sync();
}

// One token by one warp; as K1 from here on. rows: two of E floats.
SMOE_DEVICE void many_select(const RouteManyArgs& args, int64_t token, float* logits, float* rows) {
  const int experts = static_cast<int>(args.config.experts), k = args.config.k;
  for (int e = lane(); e < experts; e += 32) {
    float sum = lds(logits + e);
    if (args.router_bias != nullptr) sum += ldg(args.router_bias + e);
    if (args.logits != nullptr) stg(args.logits + off(token, experts) + e, sum);
    sts(logits + e, route_sanitised(sum));
  }
  sync_warp();
  route_one_token(args.config, args.select_bias, logits, rows, rows + experts, args.routing.ids + off(token, k),
                  args.routing.weights + off(token, k), args.routing.count + token);
  sync_warp();
}

// At most 160 KB, for 1024 experts; 96 KB for 512, which every architecture from sm_80 on has.
inline size_t route_many_shared_bytes(int64_t experts) {
  return kManyScratch + static_cast<size_t>(experts) * kRouteManyTokens * sizeof(float);
}

// TT: token tiles per warp; with few experts the tiles are spread over the warps instead.
template <class W, int TT>
SMOE_KERNEL(kManyThreads, 1)
route_many(RouteManyArgs args) {
  SMOE_SMEM_DYN(unsigned char, scratch);
  float* const logits = reinterpret_cast<float*>(scratch + kManyScratch);
  pdl_wait();
  const int experts = static_cast<int>(args.config.experts);
  const int64_t token0 = off(bid(), kRouteManyTokens);
  const int tokens =
      static_cast<int>(args.tokens - token0 < kRouteManyTokens ? args.tokens - token0 : kRouteManyTokens);
  many_logits<W, TT>(args, args.x + off(token0, args.hidden), tokens, reinterpret_cast<bf16*>(scratch), logits);
  // As many warps select as have room for score and key.
  const int room = static_cast<int>(kManyScratch / sizeof(float)) / (2 * experts);
  const int warps = room < kManyWarps ? room : kManyWarps;
  for (int token = warp(); token < tokens && warp() < warps; token += warps) {
    many_select(args, token0 + token, logits + token * experts,
                reinterpret_cast<float*>(scratch) + warp() * 2 * experts);
  }
  sync();
  pdl_trigger();
  histogram_row(args.routing.ids, args.tokens, args.config.k, experts, reinterpret_cast<int*>(scratch), args.histogram);
}

inline bool route_many_fits(const RouteManyArgs& args) {
  return args.config.experts >= 1 && args.splits >= 1 && route_fits(args.config, args.hidden);
}

}  // namespace smoe::cu
