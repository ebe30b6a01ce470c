// P1: router logits, selection and histogram of any number of tokens (specs/cuda-kernels.md 2.7), in two launches: sums
// over a part or a range of K by blocks that have a tile of experts and tokens, then one token per warp. The sums run
// in K1's order (router_gemm.cuh), so that a token's logits have the same bits on both paths and its experts cannot
// depend on how many tokens came with it.
#pragma once

#include "kernels/dispatch/histogram_row.cuh"
#include "kernels/route/route_select.cuh"
#include "kernels/route/router_gemm.cuh"

namespace smoe::cu {

// The tile of a block: 16 M x E experts for E warps abreast, and 8 N tokens for each of the others. Stages of one chunk
// of K, as they come from memory: what a warp takes from them is split in registers. Rows of f32 are 16 bytes apart in
// the banks, as in K1; rows of bf16 fill all banks by twos.
template <class W, int M, int N, int E>
struct ManyTile {
  static constexpr int kRows = 16 * M * E, kTokens = 8 * N * (kManyThreads / 32 / E);
  static constexpr int kInputPitch = kRouterChunk + 4, kInput = kTokens * kInputPitch;  // floats
  static constexpr int kPitch = sizeof(W) == 4 ? kRouterChunk + 4 : kRouterChunk, kWeights = kRows * kPitch;
  static constexpr int kStageBytes = kInput * 4 + kWeights * static_cast<int>(sizeof(W));
  // Up to 88 KB, of the 99 KB that every architecture from sm_80 on has.
  static constexpr int kStages = kStageBytes * 5 <= 88 * 1024 ? 5 : 3;
  static constexpr int kBytes = kStages * kStageBytes;
  static_assert(kTokens == kManyTileTokens && kBytes <= 96 * 1024, "the grid counts on it");
};

// Where the sums of a block's walk end: behind which chunk its share, and its range.
struct RouterWalk {
  int chunks, splits, split, share;
  Chunks range;
  int share_end;
};
SMOE_DEVICE RouterWalk walk_start(int chunks, int splits, int split) {
  RouterWalk walk{chunks, splits, split, 0, router_range(chunks, splits, split), 0};
  walk.share_end = share_begin(walk.range, 1);
  return walk;
}
// To the share that has `chunk`. Shares without chunks add nothing, K1's zeros neither.
SMOE_DEVICE void walk_to(RouterWalk& walk, int chunk) {
  while (chunk >= walk.share_end && chunk < walk.chunks) {
    if (++walk.share == kRouterWarps) {
      walk.share = 0;
      walk.range = router_range(walk.chunks, walk.splits, ++walk.split);
    }
    walk.share_end = share_begin(walk.range, walk.share + 1);
  }
}

// A chunk of the block's experts, and of its tokens: zeros past their ends.
template <class W, class Tile>
SMOE_DEVICE void many_copy_weights(const RouteManyArgs& args, int row0, int chunk, unsigned char* stage) {
  constexpr int kPieces = kRouterChunk * static_cast<int>(sizeof(W)) / 16, kWidth = 16 / static_cast<int>(sizeof(W));
  const W* const w = static_cast<const W*>(args.w);
  W* const to = reinterpret_cast<W*>(stage + Tile::kInput * 4);
  SMOE_UNROLL
  for (int i = tid(); i < Tile::kRows * kPieces; i += kManyThreads) {
    const int row = i / kPieces, column = i % kPieces * kWidth;
    const int64_t k = off(chunk, kRouterChunk) + column;
    const bool real = row0 + row < args.config.experts && k < args.hidden;
    cp16(to + row * Tile::kPitch + column, w + (real ? off(row0 + row, args.hidden) + k : 0), real);
  }
}
template <class Tile>
SMOE_DEVICE void many_copy_inputs(const RouteManyArgs& args, int64_t token0, int chunk, unsigned char* stage) {
  float* const to = reinterpret_cast<float*>(stage);
  SMOE_UNROLL
  for (int i = tid(); i < Tile::kTokens * kRouterChunk / 4; i += kManyThreads) {
    const int token = i / (kRouterChunk / 4), column = i % (kRouterChunk / 4) * 4;
    const int64_t k = off(chunk, kRouterChunk) + column;
    const bool real = token0 + token < args.tokens && k < args.hidden;
    cp16(to + token * Tile::kInputPitch + column, args.x + (real ? off(token0 + token, args.hidden) + k : 0), real);
  }
}

// acc += of one stage, by a warp with M row tiles from `row` and N token tiles from `token` on.
template <class W, class Tile, int M, int N>
SMOE_DEVICE void many_multiply(const unsigned char* stage, int row, int token, float (&acc)[M][N][4]) {
  const int g = lane() / 4, t = lane() % 4;
  uint32_t column[N][3][4];
  SMOE_UNROLL
  for (int n = 0; n < N; ++n) {
    const float* const from = reinterpret_cast<const float*>(stage) + (token + 8 * n + g) * Tile::kInputPitch + 8 * t;
    const U32x4 raw[2] = {lds(reinterpret_cast<const U32x4*>(from)), lds(reinterpret_cast<const U32x4*>(from + 4))};
    router_split(raw, column[n]);
  }
  // The parts of f32 weights are taken a row tile at a time: registers.
  constexpr int kAtOnce = sizeof(W) == 4 ? 1 : M;
  SMOE_UNROLL
  for (int first = 0; first < M; first += kAtOnce) {
    RouterRows<W> rows[kAtOnce];
    float part[kAtOnce][N][4];
    SMOE_UNROLL
    for (int m = 0; m < kAtOnce; ++m) {
      const W* const from =
          reinterpret_cast<const W*>(stage + Tile::kInput * 4) + (row + 16 * (first + m) + g) * Tile::kPitch + 8 * t;
      U32x4 upper[router_words<W>], lower[router_words<W>];
      SMOE_UNROLL
      for (int word = 0; word < router_words<W>; ++word) {
        upper[word] = lds(reinterpret_cast<const U32x4*>(from) + word);
        lower[word] = lds(reinterpret_cast<const U32x4*>(from + 8 * Tile::kPitch) + word);
      }
      router_split(upper, rows[m].upper);
      router_split(lower, rows[m].lower);
      SMOE_UNROLL
      for (int n = 0; n < N; ++n) {
        SMOE_UNROLL
        for (int reg = 0; reg < 4; ++reg) part[m][n][reg] = acc[first + m][n][reg];
      }
    }
    router_multiply<W, kAtOnce, N>(rows, column, part);
    SMOE_UNROLL
    for (int m = 0; m < kAtOnce; ++m) {
      SMOE_UNROLL
      for (int n = 0; n < N; ++n) {
        SMOE_UNROLL
        for (int reg = 0; reg < 4; ++reg) acc[first + m][n][reg] = part[m][n][reg];
      }
    }
  }
}

template <int M, int N>
SMOE_DEVICE void take(float (&from)[M][N][4], float (&to)[M][N][4]) {
  SMOE_UNROLL
  for (int m = 0; m < M; ++m) {
    SMOE_UNROLL
    for (int n = 0; n < N; ++n) {
      SMOE_UNROLL
      for (int reg = 0; reg < 4; ++reg) {
        to[m][n][reg] += from[m][n][reg];
        from[m][n][reg] = 0;
      }
    }
  }
}

// partials[walk][token][expert], blocks by tokens, then experts, then walks: those that read the same inputs come
// together.
template <class W, int M, int N, int E>
SMOE_KERNEL(kManyThreads, 1)
route_many(RouteManyArgs args) {
  using Tile = ManyTile<W, M, N, E>;
  SMOE_SMEM_DYN(unsigned char, stages);
  const int experts = static_cast<int>(args.config.experts), row_tiles = (experts + Tile::kRows - 1) / Tile::kRows;
  const int walks = (args.splits + args.run - 1) / args.run;
  const int row0 = bid() % row_tiles * Tile::kRows, walk_id = bid() / row_tiles % walks;
  const int64_t token0 = off(bid() / row_tiles / walks, Tile::kTokens);
  const int chunks = router_chunks(args.hidden), split0 = walk_id * args.run;
  const int split1 = split0 + args.run < args.splits ? split0 + args.run : args.splits;
  const int begin = router_range(chunks, args.splits, split0).begin;
  const int end = router_range(chunks, args.splits, split1 - 1).end;
  SMOE_UNROLL1
  for (int i = 0; i < Tile::kStages - 1 && begin + i < end; ++i) {
    many_copy_weights<W, Tile>(args, row0, begin + i, stages + i * Tile::kStageBytes);
  }
  pdl_wait();
  SMOE_UNROLL1
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (begin + i < end) many_copy_inputs<Tile>(args, token0, begin + i, stages + i * Tile::kStageBytes);
    cp_commit();
  }
  const int row = warp() % E * 16 * M, token = warp() / E * 8 * N;
  // Nobody stores what rows and tokens past the ends come to.
  const bool real = row0 + row < experts && token0 + token < args.tokens;
  float acc[M][N][4] = {}, range[M][N][4] = {}, total[M][N][4] = {};
  RouterWalk walk = walk_start(chunks, args.splits, split0);
  walk_to(walk, begin);
  int slot = 0, ahead = Tile::kStages - 1;
  SMOE_UNROLL1
  for (int chunk = begin; chunk < end; ++chunk) {
    cp_wait<Tile::kStages - 2>();
    sync();
    const int next = chunk + Tile::kStages - 1;
    if (next < end) {
      many_copy_weights<W, Tile>(args, row0, next, stages + ahead * Tile::kStageBytes);
      many_copy_inputs<Tile>(args, token0, next, stages + ahead * Tile::kStageBytes);
    }
    cp_commit();
    if (real) many_multiply<W, Tile, M, N>(stages + slot * Tile::kStageBytes, row, token, acc);
    if (chunk + 1 == walk.share_end) {
      take<M, N>(acc, range);
      if (chunk + 1 == walk.range.end) take<M, N>(range, total);
      walk_to(walk, chunk + 1);
    }
    slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
    ahead = ahead + 1 == Tile::kStages ? 0 : ahead + 1;
  }
  pdl_trigger();
  if (!real) return;
  SMOE_UNROLL
  for (int m = 0; m < M; ++m) {
    SMOE_UNROLL
    for (int n = 0; n < N; ++n) {
      SMOE_UNROLL
      for (int reg = 0; reg < 4; ++reg) {
        const Element at = c_element(lane(), reg);
        const int64_t to = token0 + token + 8 * n + at.col;
        const int expert = row0 + row + 16 * m + at.row;
        if (to < args.tokens && expert < experts) {
          stg(args.partials + off(off(walk_id, args.tokens) + to, experts) + expert, total[m][n][reg]);
        }
      }
    }
  }
}

// The second launch: kRouteManyTokens tokens per block.
template <int R>
constexpr int kSelectThreads = R > 8 ? 256 : 512;
template <int R>
size_t route_select_shared_bytes(int64_t experts) {  // logits and keys; then the histogram
  return static_cast<size_t>(experts) * kSelectThreads<R> / 32 * 2 * sizeof(float);
}

template <int R>
SMOE_KERNEL(kSelectThreads<R>, 1)
route_select(RouteManyArgs args) {
  SMOE_SMEM_DYN(float, shared);
  const int experts = static_cast<int>(args.config.experts), k = args.config.k;
  float *const logits = shared + warp() * 2 * experts, *const key = logits + experts;
  const int walks = (args.splits + args.run - 1) / args.run, part = args.run > 1 ? 1 : route_part(args.splits);
  const int64_t first = off(bid(), kRouteManyTokens);
  pdl_wait();
  SMOE_UNROLL1
  for (int i = warp(); i < kRouteManyTokens && first + i < args.tokens; i += nthreads() / 32) {
    const int64_t token = first + i;
    const float* const range = args.partials + off(token, experts);
    float* const trace = args.logits != nullptr ? args.logits + off(token, experts) : nullptr;
    router_finish(range, off(args.tokens, experts), walks, part, args.router_bias, experts, experts, lane(), 32, logits,
                  trace);
    sync_warp();
    RouteSlot slot = route_pick<R>(args.config, args.select_bias, logits, key);
    route_store(args.config, slot, args.routing.ids + off(token, k), args.routing.weights + off(token, k),
                args.routing.count + token);
    sync_warp();
  }
  sync();
  pdl_trigger();
  histogram_row(args.routing.ids, args.tokens, k, experts, reinterpret_cast<int*>(shared), args.histogram);
}

inline bool route_many_fits(const RouteManyArgs& args) {
  return args.config.experts >= 1 && args.splits >= 1 && route_fits(args.config, args.hidden);
}

}  // namespace smoe::cu
