// Linear maps of up to 64 rows, where reading the weights is all that costs: a unit is one row block of one map, every
// block of the grid streams one contiguous interval of packed weights, its warps share K (specs/cuda-kernels.md 2.4,
// whose scheme of gate_up.cuh this is). x is read where it lies, from L1 after the first unit.
#pragma once

#include "kernels/experts/atom_stream.cuh"
#include "kernels/experts/linear_store.cuh"
#include "kernels/experts/multiply_codes.cuh"

namespace smoe::cu {

constexpr int kLinearWarps = 8, kLinearThreads = 32 * kLinearWarps, kLinearBatch = 4;
// Floats from a feature's sums to the next. With 10 the epilogue, 16 features of two tokens per warp, meets no bank
// twice; with eight tiles that and the ring of weights would not fit the 99 KB of sm_86 and sm_89.
SMOE_HD constexpr int linear_pitch(int tiles) { return tiles == 8 ? 8 : 10; }

inline size_t linear_rows_shared_bytes(int tiles) {
  return static_cast<size_t>(2 * kLinearWarps * tiles * kAtomRows * linear_pitch(tiles)) * sizeof(float);
}

// Columns k and k + 1 of a row; past the end zeros, which may not come from memory: 0 times NaN is NaN.
template <bool tail>
SMOE_DEVICE uint32_t linear_pair(const bf16* row, int64_t k, bool real, int64_t k_size) {
  if (!tail) return real ? ldg(reinterpret_cast<const uint32_t*>(row + k)) : 0u;
  if (!real || k >= k_size) return 0;
  return k + 1 < k_size ? ldg(reinterpret_cast<const uint32_t*>(row + k)) : ldg(row + k).bits;
}

// acc[tile] += one row block times tile `tile` of x, one atom of K. x: this lane's row of tile 0. Parts p and q meet
// when p + q <= 2; what is left out lies below 2^-24 of the product (kernels/route/router_gemm.cuh).
template <int NT, int WP, int XP, bool tail>
SMOE_DEVICE void linear_step(const LinearArgs& args, const U32x4 (&a)[WP], const bf16* x, int64_t atom, int count,
                             float (&acc)[NT][4]) {
  const int64_t k = atom * kAtomCols + 2 * (lane() % 4);
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile * 8 >= count) break;
    const bool real = tile * 8 + lane() / 4 < count;
    SMOE_UNROLL
    for (int q = 0; q < XP; ++q) {
      const bf16* const row = x + off(8 * tile, args.x_stride) + off(q, args.x.step);
      const uint32_t b[2] = {linear_pair<tail>(row, k, real, args.k), linear_pair<tail>(row, k + 8, real, args.k)};
      SMOE_UNROLL
      for (int p = 0; p < WP && p + q <= 2; ++p) mma_bf16(acc[tile], a[p].x, b);
    }
  }
}

// A warp's share of K in the units [first, stop) of its block, as runs of an AtomStream.
struct LinearRuns {
  const U32x4* from;
  int atoms, count, left;
  SMOE_DEVICE LinearRuns(const U32x4* weights, const KSlice& slice, int64_t first, int64_t stop, bool streamed)
      : from(weights + off(first, slice.atoms) * 32 + slice.begin * 32 + lane()),
        atoms(slice.atoms),
        count(slice.end - slice.begin),
        left(streamed && count > 0 ? static_cast<int>(stop - first) : 0) {}
  SMOE_DEVICE bool next(const U32x4** run, int* length) {
    if (left == 0) return false;
    --left;
    *run = from;
    *length = count;
    from += atoms * 32;
    return true;
  }
};

// Weights in WP parts of bf16.
template <int WP>
struct LinearParts {
  static constexpr int kCols = kAtomCols;
  static constexpr bool kStreamed = WP == 1;
  template <int NT, int XP, class Stream>
  SMOE_DEVICE static void multiply(Stream& stream, const LinearArgs& args, int64_t unit, const KSlice& slice,
                                   const bf16* x, int count, float (&acc)[NT][4]) {
    const int64_t whole = args.k / kAtomCols;
    const auto add = [&](int64_t atom, const U32x4(&a)[WP]) {
      if (atom < whole) {
        linear_step<NT, WP, XP, false>(args, a, x, atom, count, acc);
      } else {
        linear_step<NT, WP, XP, true>(args, a, x, atom, count, acc);
      }
    };
    if constexpr (WP == 1) {
      for_atoms(stream, slice.begin, slice.end, [&](int atom, const U32x4& a) { add(atom, {a}); });
    } else {
      const U32x4* const weights = args.weight.atoms + off(unit, slice.atoms) * 32 + lane();
      for (int64_t atom = slice.begin; atom < slice.end; ++atom) {
        U32x4 a[WP];
        SMOE_UNROLL
        for (int p = 0; p < WP; ++p) a[p] = ldg_stream(weights + off(p, args.weight.part_step) + atom * 32);
        add(atom, a);
      }
    }
  }
};

// Weights as codes.
template <class Codes>
struct LinearCodes {
  static constexpr int kCols = Codes::kCols;
  static constexpr bool kStreamed = true;
  template <int NT, int XP, class Stream>
  SMOE_DEVICE static void multiply(Stream& stream, const LinearArgs& args, int64_t unit, const KSlice& slice,
                                   const bf16* x, int count, float (&acc)[NT][4]) {
    TokenRows<NT> rows;
    rows.start(x - off(lane() / 4, args.x_stride), count,
               [&](int n) { return static_cast<uint32_t>(n * args.x_stride); });
    multiply_codes<Codes, NT, XP>(stream, args.weight, unit, slice, rows, args.x.step, args.k, acc);
  }
};

// NT: token tiles of eight; XP: parts of x.
template <class Weights, int NT, int XP>
SMOE_KERNEL(kLinearThreads, (NT <= 4 ? 2 : 1))
linear_rows(LinearArgs args) {
  constexpr int kPitch = linear_pitch(NT), kTile = kAtomRows * kPitch;
  SMOE_SMEM_DYN(float, partial);  // [2][warps][NT][16 features][pitch]
  SMOE_SMEM(U32x4, ring, kLinearWarps * kStreamBatches * kLinearBatch * 32);
  const int64_t blocks = row_blocks(args.rows), units = off(args.batch, blocks);
  const int64_t first = units * bid() / nblocks(), stop = units * (bid() + 1) / nblocks();
  const KSlice slice = k_slice(args.k, Weights::kCols, warp(), kLinearWarps);
  // The first weights are under way before the launch before this one has ended, and the next one's while this reads.
  AtomStream<kLinearBatch, LinearRuns> stream(ring, {args.weight.atoms, slice, first, stop, Weights::kStreamed});
  pdl_wait();
  pdl_trigger();
  const int count = static_cast<int>(linear_tokens(args));
  if (count <= 0) {
    cp_wait<0>();  // nothing may be on its way to shared memory that the block has given up
    return;
  }
  for (int64_t unit = first; unit < stop; ++unit) {
    const int map = static_cast<int>(unit / blocks);
    const int64_t block = unit % blocks;
    const bf16* const x = args.x.data + off(lane() / 4, args.x_stride) + off(map, args.x_step);
    float acc[NT][4] = {};
    Weights::template multiply<NT, XP>(stream, args, unit, slice, x, count, acc);
    // Two buffers: the warps that are done with this unit may already write the next one's sums, and no further.
    float* const sums = partial + (unit & 1) * kLinearWarps * NT * kTile;
    SMOE_UNROLL
    for (int tile = 0; tile < NT; ++tile) {
      if (tile * 8 >= count) break;
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Element at = c_element(lane(), 2 * half);
        float* const to = sums + (warp() * NT + tile) * kTile + at.row * kPitch + at.col;
        sts(reinterpret_cast<U32x2*>(to),
            U32x2{{bit_cast<uint32_t>(acc[tile][2 * half]), bit_cast<uint32_t>(acc[tile][2 * half + 1])}});
      }
    }
    sync();
    for (int i = tid(); i < count * kAtomRows; i += kLinearThreads) {
      const int n = i / kAtomRows, feature = i % kAtomRows;
      if (block * kAtomRows + feature >= args.rows) continue;
      const float* const mine = sums + n / 8 * kTile + feature * kPitch + n % 8;
      float y = 0;
      for (int w = 0; w < kLinearWarps; ++w) y += lds(mine + w * NT * kTile);
      linear_store(args, map, block * kAtomRows + feature, n, y);
    }
  }
}

}  // namespace smoe::cu
