// Router logits of up to 64 tokens on tensor cores, as partial sums over K (specs/cuda-kernels.md 2.3). Weight rows are
// the A operand, tokens the columns.
#pragma once

#include "cuda/cu.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

constexpr int kRouterTokens = 64;  // eight tiles of eight

// An f32 value is the exact sum of three bf16 (3 x 8 significant bits); a bf16 value is its own first part. Products of
// parts i and j with i + j <= 2 leave out only what lies below 2^-24 of the product: logits keep f32 accuracy, which
// near-ties between experts need (specs/routing.md C.6).
template <class T>
constexpr int router_parts = sizeof(T) == 4 ? 3 : 1;

// Eight consecutive elements of a row, split: part[p][i] holds elements 2i and 2i+1. The four pairs are used as the k
// pairs of two m16n8k16 steps. Which logical k a column gets does not matter as long as A and B agree, and this way
// every lane reads 16 or 32 contiguous bytes.
SMOE_DEVICE void router_load(const bf16* row, bool real, uint32_t (&part)[1][4]) {
  const U32x4 v = real ? ldg(reinterpret_cast<const U32x4*>(row)) : U32x4{{0, 0, 0, 0}};
  for (int i = 0; i < 4; ++i) part[0][i] = v.x[i];
}
SMOE_DEVICE void router_load(const float* row, bool real, uint32_t (&part)[3][4]) {
  for (int half = 0; half < 2; ++half) {
    const U32x4 v = real ? ldg(reinterpret_cast<const U32x4*>(row + 4 * half)) : U32x4{{0, 0, 0, 0}};
    for (int i = 0; i < 2; ++i) {
      float low = bit_cast<float>(v.x[2 * i]), high = bit_cast<float>(v.x[2 * i + 1]);
      for (int p = 0; p < 3; ++p) {
        const bf16 l = to_bf16(low), h = to_bf16(high);
        part[p][2 * half + i] = pack2(l, h);
        low -= to_float(l);
        high -= to_float(h);
      }
    }
  }
}

// acc[tile] += W[row0 .. row0+15][K range] X[8 tile .. 8 tile+7][K range]^T for this warp's chunks of [begin, end).
template <class W>
SMOE_DEVICE void router_tile(const W* w, const float* x, int row0, int experts, int tokens, int64_t hidden,
                             int64_t begin, int64_t end, float (&acc)[kRouterTokens / 8][4]) {
  const int g = lane() / 4, t = lane() % 4;
  for (int64_t k0 = begin + warp() * kRouterChunk; k0 < end; k0 += kRouterWarps * kRouterChunk) {
    const int64_t k = k0 + 8 * t;
    uint32_t upper[router_parts<W>][4], lower[router_parts<W>][4];
    router_load(w + off(row0 + g, hidden) + k, row0 + g < experts && k < end, upper);
    router_load(w + off(row0 + g + 8, hidden) + k, row0 + g + 8 < experts && k < end, lower);
    SMOE_UNROLL
    for (int tile = 0; tile < kRouterTokens / 8; ++tile) {
      if (tile * 8 >= tokens) break;
      const int token = tile * 8 + g;
      uint32_t column[router_parts<float>][4];
      router_load(x + off(token, hidden) + k, token < tokens && k < end, column);
      SMOE_UNROLL
      for (int p = 0; p < router_parts<W>; ++p) {
        SMOE_UNROLL
        for (int q = 0; q < router_parts<float>; ++q) {
          if (p + q > 2) continue;
          for (int step = 0; step < 2; ++step) {
            const uint32_t a[4] = {upper[p][2 * step], lower[p][2 * step], upper[p][2 * step + 1],
                                   lower[p][2 * step + 1]};
            const uint32_t b[2] = {column[q][2 * step], column[q][2 * step + 1]};
            mma_bf16(acc[tile], a, b);
          }
        }
      }
    }
  }
}

}  // namespace smoe::cu
