// The tile of the prefill GEMMs for integer weights and int8 activations: 128 packed weight rows times TN rows, on byte
// mma. Codes and rows both go through a ring of stages of 128 columns, in the ways of gemm_wide_codes.cuh: one straight
// run of instructions but for the ends of groups, where int32 sums of a group become f32 as in multiply_int8.cuh, in
// the same order. Neither the tile nor the rows beside it show in the bits.
//
// Per stage of a block of 128 x 128, on one SM of an H200, with mma of bytes as fast as those of bf16 are measured:
//   tensor cores    512 mma at 1.65 clk                                                             = 845 clk
//   shared memory   8 warps x 4 k32 steps x (2 A + 4 B) x 512 bytes, 32 KB of copies, 128 bytes/clk = 1024 clk
//   L2              32 KB at about 27 bytes/clk                                                     = 1213 clk
// for w8; with w4 the last two are 832 and 910 clk, with t2 736 and 759.
#pragma once

#include "kernels/experts/gemm_wide_codes.cuh"
#include "kernels/experts/multiply_int8.cuh"

namespace smoe::cu {

template <int TN>
struct Int8Shape {
  // Row blocks of a warp; warps; groups of 8 rows of a warp.
  static constexpr int kBlocks = 2, kDown = kGemmBlocks / kBlocks, kAcross = 8 / kDown;
  static constexpr int kTiles = TN / 8 / kAcross, kPairs = kTiles / 2;
  static constexpr int kCopies = TN * kCodeChunks / kGemmThreads, kRing = 3;
  static constexpr int kSteps = kInt8Block / 32;  // of a stage
  // Of a stage: codes of w8, which are the widest; a row has as many chunks of 16 bytes as one of CodeRows.
  static constexpr int kCodeBytes = kGemmBlocks * kSteps * 512, kStageBytes = kCodeBytes + TN * kInt8Block;
  static_assert(kInt8Block == kCodeChunks * 16, "copy_rows() serves");
  // Scales and sums of the rows have a ring of groups. Between the ends of two groups 128 columns apart lies a barrier,
  // and groups have 32 columns at least: what is stored at the end of a group may be read four groups on, and takes the
  // place of a group that everybody left where it is more than four back.
  static constexpr int kGroups = 16, kAhead = 8, kGroupBytes = TN * 8, kMine = TN / 8;  // kMine: rows of a warp
  static constexpr int kRingBytes = kRing * kStageBytes, kBytes = kRingBytes + kGroups * kGroupBytes;
};

// A stage of codes: atom i of all row blocks, then atom i + 1.
template <class Codes>
struct Int8Stage {
  static constexpr int kAtoms = kInt8Block / Codes::kCols, kAtomSteps = Codes::kCols / 32;
};

// codes: of lane lane() of the row block that this warp copies. Past K: zeros.
template <class Codes>
SMOE_DEVICE void copy_bytes(const U32x4* codes, int k, int stage, unsigned char* to) {
  constexpr int kAtoms = Int8Stage<Codes>::kAtoms;
  const U32x4* const from = codes + static_cast<uint32_t>(stage) * (kAtoms * 32);
  SMOE_UNROLL
  for (int i = 0; i < kAtoms; ++i) {
    cp16(to + (tid() + i * kGemmThreads) * 16, from + i * 32, (stage * kAtoms + i) * Codes::kCols < k);
  }
}

// The ring of groups as the warp that fills it sees it: a lane has a row. Of each group there are the rows' scales and
// what their sums start from, less the format's zero point for each column: -kZeroCode times the sum of the row's
// codes.
template <int TN, int kZeroCode>
struct RowGroups {
  using S = Int8Shape<TN>;
  const U32x2* from;  // the pair of kAhead groups on from the current one
  unsigned char* to;

  // groups: of the matrix. After the last the last is repeated.
  SMOE_DEVICE RowGroups(const U32x2* pairs, int groups, unsigned char* ring)
      : from(pairs), to(ring + (warp() * S::kMine + lane() % S::kMine) * 4) {
    constexpr int kLanes = 32 / S::kMine;  // that have this row
    SMOE_UNROLL
    for (int i = 0; i < S::kAhead / kLanes; ++i) {
      const int group = i * kLanes + lane() / S::kMine;
      put(ldg(from + (group < groups ? group : groups - 1)), group * S::kGroupBytes);
    }
    from += S::kAhead < groups ? S::kAhead : groups - 1;
  }
  SMOE_DEVICE void put(const U32x2& pair, int at) const {
    sts(reinterpret_cast<uint32_t*>(to + at), pair.x[0]);
    sts(reinterpret_cast<uint32_t*>(to + at + TN * 4), static_cast<uint32_t>(-kZeroCode) * pair.x[1]);
  }
  // At the end of the group at `at` in the ring; left: groups from it on. The pair is stored when its sums are added,
  // which hides the latency and spares registers in between.
  SMOE_DEVICE U32x2 next(int left) {
    const U32x2 pair = ldg(from);
    from += left > S::kAhead + 1 ? 1 : 0;
    return pair;
  }
  SMOE_DEVICE void store(const U32x2& pair, int at) const {
    if (lane() < S::kMine) put(pair, at ^ (S::kAhead * S::kGroupBytes));
  }
};

// acc += the tile. x: of the rows, as bf16, two codes each. pairs: of row warp() * kMine + lane() % kMine of the tile.
template <int TN, class Codes, bool asymmetric, int kRows, int kAccTiles>
SMOE_DEVICE void multiply_int8_tile(const CodeRows<kRows>& rows, const bf16* x, const U32x2* pairs,
                                    const AtomMatrix& matrix, int block0, int blocks, int k, unsigned char* ring,
                                    float (&acc)[Int8Shape<TN>::kBlocks][kAccTiles][4]) {
  using S = Int8Shape<TN>;
  using C = Int8Stage<Codes>;
  const int atoms = static_cast<int>(atoms_along(k, Codes::kCols)),
            stages = static_cast<int>(int8_stride(k) / kInt8Block);
  const int down = warp() % S::kDown * S::kBlocks, across = warp() / S::kDown * S::kTiles * 8;
  const int copied = block0 + warp() < blocks ? block0 + warp() : blocks - 1;
  const U32x4* const codes = matrix.atoms + static_cast<uint32_t>(copied) * static_cast<uint32_t>(atoms) * 32 + lane();
  const auto copy_half = [&](int stage, int half, unsigned char* to) {
    if (half == 0) copy_bytes<Codes>(codes, k, stage, to);
    copy_rows(rows, x, stages * (kCodeChunks * 8), stage, half * (S::kCopies / 2),
              half == 0 ? S::kCopies / 2 : S::kCopies, to + S::kCodeBytes);
  };
  SMOE_UNROLL
  for (int s = 0; s < S::kRing - 1; ++s) {
    copy_half(s, 0, ring + s * S::kStageBytes);
    copy_half(s, 1, ring + s * S::kStageBytes);
    cp_commit();
  }
  constexpr int kWhole = 1 << 30;
  const int units = matrix.group > 0 ? matrix.group / 32 : kWhole;
  int left = units;
  WideScales<S::kBlocks, asymmetric> scales(matrix, block0 + down, blocks, atoms * Codes::kCols);
  unsigned char* const groups = ring + S::kRingBytes;
  RowGroups<TN, Codes::kZeroCode> row_groups(pairs, scales.left, groups);
  int slot = 0;  // of the current group
  const int column = (across + lane() % 4 * 2) * 4;
  int32_t sum[S::kBlocks][S::kTiles][4];
  const auto pair_of = [&](int plane, int tile) {  // of columns 2t and 2t + 1
    return lds(reinterpret_cast<const U32x2*>(groups + slot + plane * (TN * 4) + column + tile * 32));
  };
  const auto start = [&](int tile) {
    const U32x2 two = pair_of(1, tile);
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) sum[b][tile][i] = static_cast<int32_t>(two.x[i & 1]);
    }
  };
  const auto add_group = [&] {
    float scale[S::kBlocks][2], zero[S::kBlocks][2];
    scales.values(scale, zero);
    const U32x2 later = row_groups.next(scales.left);
    scales.next();
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) {
      const U32x2 scale_of = pair_of(0, tile);
      float minus[2] = {0, 0};  // the sum of the row's codes
      if constexpr (asymmetric) {
        const U32x2 two = pair_of(1, tile);
        SMOE_UNROLL
        for (int c = 0; c < 2; ++c) {  // a power of two: the same rounding
          minus[c] = static_cast<float>(static_cast<int32_t>(two.x[c])) * (1.0f / Codes::kZeroCode);
        }
      }
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) {
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) {
          float value = static_cast<float>(sum[b][tile][i]);
          if constexpr (asymmetric) value = fma(zero[b][i >> 1], minus[i & 1], value);
          acc[b][tile][i] = fma(value * scale[b][i >> 1], bit_cast<float>(scale_of.x[i & 1]), acc[b][tile][i]);
        }
      }
    }
    row_groups.store(later, slot);
    slot = (slot + S::kGroupBytes) & (S::kGroups * S::kGroupBytes - 1);
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) start(tile);
    left = scales.left > 0 ? units : kWhole;
  };
  const int reader = lane_read_here(), codes_at = down * 512 + reader * 16;
  const int rows_at = S::kCodeBytes + (across + reader / 16 * 8 + reader % 8) * kInt8Block;
  int from = 0, to = (S::kRing - 1) * S::kStageBytes;  // stages being read and copied, in the ring
  const auto after = [](int stage) { return stage == (S::kRing - 1) * S::kStageBytes ? 0 : stage + S::kStageBytes; };
  U32x4 atom[S::kBlocks];
  CodeStep<S::kBlocks, S::kPairs> steps[2];
  const auto load = [&](int step, CodeStep<S::kBlocks, S::kPairs>* out) {  // of the stage in the ring at `from`
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      if (step % C::kAtomSteps == 0) {
        atom[b] = lds(
            reinterpret_cast<const U32x4*>(ring + from + codes_at + (step / C::kAtomSteps * kGemmBlocks + b) * 512));
      }
    }
    const int chunk = (2 * step + lane() / 8 % 2) ^ lane() % 8;
    SMOE_UNROLL
    for (int pair = 0; pair < S::kPairs; ++pair) {
      ldmatrix_x4(out->b[pair], ring + from + rows_at + chunk * 16 + pair * (16 * kInt8Block));
    }
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) Codes::bytes(atom[b], step % C::kAtomSteps, out->a[b]);
  };
  cp_wait<S::kRing - 2>();
  sync();
  SMOE_UNROLL
  for (int tile = 0; tile < S::kTiles; ++tile) start(tile);
  load(0, &steps[0]);
  SMOE_UNROLL1
  for (int stage = 0; stage < stages; ++stage) {
    SMOE_UNROLL
    for (int step = 0; step < S::kSteps; ++step) {
      if (step == S::kSteps - 1) {  // the next stage is there, and nobody reads this one any more
        cp_wait<S::kRing - 2>();
        sync();
        from = after(from);
      }
      load((step + 1) % S::kSteps, &steps[(step + 1) % 2]);
      if (step < 2) copy_half(stage + S::kRing - 1, step, ring + to);
      if (step == 1) {
        cp_commit();
        to = after(to);
      }
      const CodeStep<S::kBlocks, S::kPairs>& now = steps[step % 2];
      SMOE_UNROLL
      for (int i = 0; i < S::kPairs; ++i) {
        const uint32_t(&r)[4] = now.b[i];
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          mma_u8s8(sum[b][2 * i], now.a[b], b0);
          mma_u8s8(sum[b][2 * i + 1], now.a[b], b1);
        }
      }
      if (--left == 0) add_group();
    }
  }
  if (scales.left > 0) add_group();  // which ends past K, or whole rows
  cp_wait<0>();
  sync();
}

// The same, for a matrix of any integer format; where `live` rows are no more than half of TN, with that many.
// row_of(i): of x, row i of the tile.
template <int TN, class RowOf>
SMOE_DEVICE void multiply_any_int8(const Int8Rows& x, RowOf row_of, const AtomMatrix& matrix, int block0, int blocks,
                                   int k, int live, unsigned char* ring,
                                   float (&acc)[Int8Shape<TN>::kBlocks][Int8Shape<TN>::kTiles][4]) {
  CodeRows<TN> rows;
  rows.aim_rows(x.stride / 2, row_of);
  const bf16* const codes = reinterpret_cast<const bf16*>(x.codes);
  const int mine = live_rows<TN>(live) / 8;
  const U32x2* const pairs = x.scales + off(row_of(warp() * mine + lane() % mine), x.groups);
  with_bytes(matrix.format, [&](auto format) {
    const auto multiply = [&](auto asymmetric) {
      with_rows<TN>(live, [&](auto count) {
        multiply_int8_tile<decltype(count)::value, decltype(format), decltype(asymmetric)::value>(
            rows, codes, pairs, matrix, block0, blocks, k, ring, acc);
      });
    };
    if (matrix.zeros != nullptr) return multiply(Flag<true>{});
    multiply(Flag<false>{});
  });
}

// The rows of the tile that a warp's sums are of: `count` from `first` on.
struct WarpRows {
  int first, count;
};
template <int TN>
SMOE_DEVICE WarpRows int8_warp_rows(int live) {
  const int mine = live_rows<TN>(live) / Int8Shape<TN>::kAcross;
  return {warp() / Int8Shape<TN>::kDown * mine, mine};
}

}  // namespace smoe::cu
