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
// of K, as they come from memory: what a warp takes from them is split in registers. Rows of f32 are 32 bytes apart in
// the banks, as in K1; those of bf16 20 words, of which eight rows of 16 bytes fill all banks.
template <class W, int M, int N, int E>
struct ManyTile {
  static constexpr int kRows = 16 * M * E, kTokens = 8 * N * (kManyThreads / 32 / E);
  static constexpr int kPitch = kRouterChunk + 8, kInputBytes = kTokens * kPitch * 4;
  static constexpr int kStageBytes = kInputBytes + kRows * kPitch * static_cast<int>(sizeof(W));
  // Up to 96 KB, of the 99 KB that every architecture from sm_80 on has.
  static constexpr int kMost = 96 * 1024 / kStageBytes, kStages = kMost < 5 ? kMost : 5;
  static constexpr int kBytes = kStages * kStageBytes;
  // Pieces of 16 bytes of one chunk, each thread has the same columns of every chunk.
  static constexpr int kInputPieces = kRouterChunk / 4, kInputSteps = kTokens * kInputPieces / kManyThreads;
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(W)), kPieces = kRouterChunk / kWidth;
  static constexpr int kSteps = (kRows * kPieces + kManyThreads - 1) / kManyThreads;
  static_assert(kTokens == kManyTileTokens && kStages >= 3, "the grid counts on it; the pipeline");
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

// Copies of one thread: where from at chunk 0, and whether there is such a row. Zeros past the ends.
template <class T, int steps>
struct ManyCopy {
  const T* from[steps];
  bool real[steps];
  int column;
};
template <class T, int steps>
SMOE_DEVICE ManyCopy<T, steps> many_copy(const T* base, int64_t first, int64_t rows, int tile_rows, int64_t hidden) {
  constexpr int kWidth = 16 / static_cast<int>(sizeof(T)), kPieces = kRouterChunk / kWidth;
  ManyCopy<T, steps> copy;
  copy.column = tid() % kPieces * kWidth;
  SMOE_UNROLL
  for (int i = 0; i < steps; ++i) {
    const int row = tid() / kPieces + i * (kManyThreads / kPieces);
    copy.real[i] = row < tile_rows && first + row < rows;
    copy.from[i] = base + (copy.real[i] ? off(first + row, hidden) + copy.column : 0);
  }
  return copy;
}
template <int tile_rows, class T, int steps>
SMOE_DEVICE void many_fill(const ManyCopy<T, steps>& copy, int chunk, int64_t hidden, unsigned char* stage) {
  constexpr int kPieces = kRouterChunk * static_cast<int>(sizeof(T)) / 16, kPitch = kRouterChunk + 8;
  const int64_t k = static_cast<int64_t>(chunk) * kRouterChunk;
  const bool inside = k + copy.column < hidden;
  SMOE_UNROLL
  for (int i = 0; i < steps; ++i) {
    const int row = tid() / kPieces + i * (kManyThreads / kPieces);
    if (row >= tile_rows) break;
    const bool real = inside && copy.real[i];
    cp16(reinterpret_cast<T*>(stage) + row * kPitch + copy.column, copy.from[i] + (real ? k : 0), real);
  }
}

// Row tiles [first, first + count) of a warp, of one stage; weights: row 0 of tile 0. A bf16 fragment comes from four
// matrices of eight rows and 16 bytes each, whose rows a quarter of the lanes name.
template <class W, int first, int count, int M, int N>
SMOE_DEVICE void many_rows(const W* weights, const uint32_t (&column)[N][3][4], float (&acc)[M][N][4]) {
  constexpr int kPitch = kRouterChunk + 8;
  RouterRows<W> rows[count];
  SMOE_UNROLL
  for (int m = 0; m < count; ++m) {
    const W* const tile = weights + 16 * (first + m) * kPitch;
    if constexpr (sizeof(W) == 2) {
      const W* const row = tile + lane() % 16 * kPitch + lane() / 16 * 8;
      ldmatrix_x4(rows[m].a[0][0], row);
      ldmatrix_x4(rows[m].a[0][1], row + 16);
    } else {
      RouterPair<W> upper[4], lower[4];
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const W* const from = tile + lane() / 4 * kPitch + 8 * i + 2 * (lane() % 4);
        upper[i] = lds(reinterpret_cast<const RouterPair<W>*>(from));
        lower[i] = lds(reinterpret_cast<const RouterPair<W>*>(from + 8 * kPitch));
      }
      router_rows<W>(upper, lower, rows[m]);
    }
  }
  router_multiply<W, first, count>(rows, column, acc);
}

// acc += of one stage, by a warp with M row tiles from `row` and N token tiles from `token` on.
template <class W, class Tile, int M, int N>
SMOE_DEVICE void many_multiply(const unsigned char* stage, int row, int token, float (&acc)[M][N][4]) {
  uint32_t column[N][3][4];
  SMOE_UNROLL
  for (int n = 0; n < N; ++n) {
    router_column(reinterpret_cast<const float*>(stage) + (token + 8 * n + lane() / 4) * Tile::kPitch, column[n]);
  }
  const W* const weights = reinterpret_cast<const W*>(stage + Tile::kInputBytes) + row * Tile::kPitch;
  if constexpr (sizeof(W) == 2) {
    many_rows<W, 0, M>(weights, column, acc);
  } else {
    // Three parts each: a row tile at a time, for want of registers.
    many_rows<W, 0, 1>(weights, column, acc);
    if constexpr (M > 1) many_rows<W, 1, 1>(weights, column, acc);
    if constexpr (M > 2) {
      many_rows<W, 2, 1>(weights, column, acc);
      many_rows<W, 3, 1>(weights, column, acc);
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
  const auto w = many_copy<W, Tile::kSteps>(static_cast<const W*>(args.w), row0, experts, Tile::kRows, args.hidden);
  const auto x = many_copy<float, Tile::kInputSteps>(args.x, token0, args.tokens, Tile::kTokens, args.hidden);
  SMOE_UNROLL1
  for (int i = 0; i < Tile::kStages - 1 && begin + i < end; ++i) {
    many_fill<Tile::kRows>(w, begin + i, args.hidden, stages + i * Tile::kStageBytes + Tile::kInputBytes);
  }
  pdl_wait();
  SMOE_UNROLL1
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    if (begin + i < end) many_fill<Tile::kTokens>(x, begin + i, args.hidden, stages + i * Tile::kStageBytes);
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
      unsigned char* const stage = stages + ahead * Tile::kStageBytes;
      many_fill<Tile::kTokens>(x, next, args.hidden, stage);
      many_fill<Tile::kRows>(w, next, args.hidden, stage + Tile::kInputBytes);
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
