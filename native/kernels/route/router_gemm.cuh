// Router logits on tensor cores, as sums over parts of K (specs/cuda-kernels.md 2.3). Weight rows are the A operand,
// tokens the columns. The order of additions of one logit, which K1 and P1 share:
//   a share of a range: its chunks of 32 columns one after another in the accumulator of one tensor instruction,
//   a range:            its kRouterWarps shares (K1: the warps of a block),
//   a part:             route_part() ranges (K1: blocks),
//   the logit:          the parts, then the bias;
// each sum starts at 0. Ranges and shares follow one another along K.
#pragma once

#include <type_traits>

#include "kernels/route/route_select.cuh"

namespace smoe::cu {

struct Chunks {
  int begin, end;
};
SMOE_DEVICE int router_chunks(int64_t hidden) { return static_cast<int>((hidden + kRouterChunk - 1) / kRouterChunk); }
SMOE_DEVICE Chunks router_range(int chunks, int splits, int split) {
  return {static_cast<int>(off(chunks, split) / splits), static_cast<int>(off(chunks, split + 1) / splits)};
}
SMOE_DEVICE int share_begin(Chunks range, int share) {
  return range.begin + (range.end - range.begin) * share / kRouterWarps;
}

// An f32 value is the exact sum of three bf16 (3 x 8 significant bits); a bf16 value is its own first part. Products of
// parts i and j with i + j <= 2 leave out only what lies below 2^-24 of the product: logits keep f32 accuracy, which
// near-ties between experts need (specs/routing.md C.6).
template <class T>
constexpr int router_parts = sizeof(T) == 4 ? 3 : 1;

// Two neighbouring elements. Of a chunk's row, lane t of four has pairs i = 0..3 at the columns 8i + 2t: those of two
// m16n8k16 steps.
template <class T>
using RouterPair = std::conditional_t<sizeof(T) == 4, U32x2, uint32_t>;

// The same, split.
SMOE_DEVICE void router_split(const uint32_t (&raw)[4], uint32_t (&part)[1][4]) {
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) part[0][i] = raw[i];
}
SMOE_DEVICE void router_split(const U32x2 (&raw)[4], uint32_t (&part)[3][4]) {
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    float low = bit_cast<float>(raw[i].x[0]), high = bit_cast<float>(raw[i].x[1]);
    SMOE_UNROLL
    for (int p = 0; p < 3; ++p) {
      const uint32_t both = round_bf16x2(low, high);
      part[p][i] = both;
      low -= bit_cast<float>(both << 16);
      high -= bit_cast<float>(both & 0xFFFF0000u);
    }
  }
}
// Of a token's row, from shared memory: `row` is at its chunk.
SMOE_DEVICE void router_column(const float* row, uint32_t (&column)[3][4]) {
  U32x2 raw[4];
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) raw[i] = lds(reinterpret_cast<const U32x2*>(row + 8 * i + 2 * (lane() % 4)));
  router_split(raw, column);
}

// Rows g and g + 8 of a row tile, split, as the A operands of two steps.
template <class W>
struct RouterRows {
  uint32_t a[router_parts<W>][2][4];
};
template <class W>
SMOE_DEVICE void router_rows(const RouterPair<W> (&upper)[4], const RouterPair<W> (&lower)[4], RouterRows<W>& rows) {
  uint32_t up[router_parts<W>][4], low[router_parts<W>][4];
  router_split(upper, up);
  router_split(lower, low);
  SMOE_UNROLL
  for (int p = 0; p < router_parts<W>; ++p) {
    SMOE_UNROLL
    for (int step = 0; step < 2; ++step) {
      rows.a[p][step][0] = up[p][2 * step];
      rows.a[p][step][1] = low[p][2 * step];
      rows.a[p][step][2] = up[p][2 * step + 1];
      rows.a[p][step][3] = low[p][2 * step + 1];
    }
  }
}

// acc[first + m][n] += W[tile m][chunk] X[tile n][chunk]^T. The tiles innermost: a tensor instruction waits for the one
// before it on the same accumulator.
template <class W, int first, int count, int M, int N>
SMOE_DEVICE void router_multiply(const RouterRows<W> (&rows)[count], const uint32_t (&column)[N][3][4],
                                 float (&acc)[M][N][4]) {
  SMOE_UNROLL
  for (int p = 0; p < router_parts<W>; ++p) {
    SMOE_UNROLL
    for (int q = 0; q < router_parts<float>; ++q) {
      if (p + q > 2) continue;
      SMOE_UNROLL
      for (int step = 0; step < 2; ++step) {
        SMOE_UNROLL
        for (int m = 0; m < count; ++m) {
          SMOE_UNROLL
          for (int n = 0; n < N; ++n) {
            const uint32_t b[2] = {column[n][q][2 * step], column[n][q][2 * step + 1]};
            mma_bf16(acc[first + m][n], rows[m].a[p][step], b);
          }
        }
      }
    }
  }
}

// Sums of N neighbouring logits: ranges are added up `part` at a time, then the parts. stride: floats between ranges.
// All loads of usual models are under way at once.
constexpr int kRouterLoads = 16;
template <int N>
struct alignas(4 * N) RouterWord {
  uint32_t x[N];
};
template <int N>
struct RouterSums {
  float logit[N];
};
template <int N>
SMOE_DEVICE RouterSums<N> router_sum(const float* range, int64_t stride, int ranges, int part) {
  using Word = RouterWord<N>;
  RouterSums<N> total{}, sum{};
  int left = part;
  SMOE_UNROLL1
  for (int first = 0; first < ranges; first += kRouterLoads) {
    Word value[kRouterLoads];
    SMOE_UNROLL
    for (int i = 0; i < kRouterLoads; ++i) {
      value[i] = Word{};
      if (first + i < ranges) value[i] = ldg(reinterpret_cast<const Word*>(range + (first + i) * stride));
    }
    SMOE_UNROLL
    for (int i = 0; i < kRouterLoads; ++i) {
      SMOE_UNROLL
      for (int n = 0; n < N; ++n) {
        sum.logit[n] += bit_cast<float>(value[i].x[n]);  // zeros past the end change nothing: the sum began with +0
      }
      if (--left == 0) {
        SMOE_UNROLL
        for (int n = 0; n < N; ++n) {
          total.logit[n] += sum.logit[n];
          sum.logit[n] = 0;
        }
        left = part;
      }
    }
  }
  SMOE_UNROLL
  for (int n = 0; n < N; ++n) total.logit[n] += sum.logit[n];
  return total;
}

// `count` logits, of tokens with `experts` each, from the sums at `range`, by `threads` threads of which this is number
// `thread`: sanitised into shared memory, and as they are to `trace` unless it is null.
template <int N>
SMOE_DEVICE void router_finish_by(const float* range, int64_t stride, int ranges, int part, const float* bias,
                                  int experts, int count, int thread, int threads, float* logits, float* trace) {
  SMOE_UNROLL1
  for (int i = thread * N; i < count; i += threads * N) {
    RouterSums<N> sums = router_sum<N>(range + i, stride, ranges, part);
    if (bias != nullptr) {
      const int expert = i % experts;  // of the first: N divides `experts`
      SMOE_UNROLL
      for (int n = 0; n < N; ++n) sums.logit[n] += ldg(bias + expert + n);
    }
    SMOE_UNROLL
    for (int n = 0; n < N; ++n) {
      if (trace != nullptr) stg(trace + i + n, sums.logit[n]);
      sts(logits + i + n, route_sanitised(sums.logit[n]));
    }
  }
}
SMOE_DEVICE void router_finish(const float* range, int64_t stride, int ranges, int part, const float* bias, int experts,
                               int count, int thread, int threads, float* logits, float* trace) {
  if (experts % 4 == 0 && count > threads) {
    router_finish_by<4>(range, stride, ranges, part, bias, experts, count, thread, threads, logits, trace);
  } else {
    router_finish_by<1>(range, stride, ranges, part, bias, experts, count, thread, threads, logits, trace);
  }
}

}  // namespace smoe::cu
