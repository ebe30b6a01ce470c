// The tile of the prefill GEMMs for weights of codes and one bf16 plane of activations whose rows are whole 16-byte
// chunks: 256 packed weight rows times TN activation rows. Codes and rows both go through a ring of stages of 64
// columns. As in gemm_codes.cuh the f32 sum of a group is multiplied by its scale and added to the accumulators, in the
// same order, so that the choice between the files does not show in the bits. A warp holds 32 x TN sums twice: those of
// a group and those of all.
//
// Per k16 step of a warp, of 64 rows: two row blocks are dequantized (22 instructions for w4), for 16 mma. Tensor cores
// take an mma every 6.6 clk of a scheduler (645 TFLOP/s measured on an H200), in which it can issue as many
// instructions of either of its two warps. So the loop over stages is one straight run but for the ends of groups: what
// would be a branch is a copy of zeros past K, a row that repeats the last one, and a tile of half the rows where those
// are enough. With few rows per expert memory sets the pace: at 4.5 TB/s on 132 SMs a scheduler has about 25 issue
// slots for the 128 bytes of w4 that a row block has in a step, and of 32 rows they take 31 (23 without the ends of
// groups of 128). What is in flight must then cover about 1 us, 34 KB of an SM: hence the deep ring. And what L2
// delivers counts codes and rows: 256 weight rows by 32 take 4 KB of rows for each 8 KB of w4.
#pragma once

#include "kernels/experts/gemm_wide.cuh"
#include "kernels/experts/multiply_codes.cuh"
#include "kernels/experts/wide_scales.cuh"

namespace smoe::cu {

constexpr int kCodeChunks = 8, kCodeSteps = 4;  // 16 bytes of rows, k16 steps: of a stage
constexpr int kCodeRowBlocks = kWideBlocks;     // of a tile

template <int TN>
struct CodeShape {
  static constexpr int kBlocks = kCodeRowBlocks / 8;          // row blocks of a warp
  static constexpr int kTiles = TN / 8, kPairs = kTiles / 2;  // of 8 rows
  static constexpr int kCopies = TN * kCodeChunks / kGemmThreads, kRowBytes = TN * kCodeChunks * 16;
};

// A stage of codes: of each row block the atoms that hold its columns, whole ones.
template <class Codes>
struct CodeStage {
  static constexpr int kAtoms = Codes::kCols <= 64 ? 64 / Codes::kCols : 1;   // of a row block
  static constexpr int kStages = Codes::kCols <= 64 ? 1 : Codes::kCols / 64;  // that an atom lasts
  static constexpr int kAtomSteps = kCodeSteps / kAtoms;                      // k16 steps of a stage from one atom
  static constexpr int kCopies = kCodeRowBlocks * kAtoms * 32 / kGemmThreads, kBytes = kCodeRowBlocks * kAtoms * 512;
  static_assert(kStages <= 4, "next_stage()");
  // The atom's columns of a stage become its first.
  SMOE_DEVICE static void next_stage(U32x4* atom, int stage) {
    if constexpr (kStages == 4) {
      if (stage % 2 != 0) drop_words<1>(atom);
      if (stage / 2 % 2 != 0) drop_words<2>(atom);
    } else if constexpr (kStages == 2) {
      if (stage % 2 != 0) drop_words<2>(atom);
    }
  }
};
constexpr int kMostCodeCopies = kCodeRowBlocks * 2 * 32 / kGemmThreads;

// The ring, of `bytes` or less.
template <int TN, class Codes, int bytes>
struct CodeRing {
  static constexpr int kStageBytes = CodeStage<Codes>::kBytes + CodeShape<TN>::kRowBytes;
  static constexpr int kFit = bytes / kStageBytes, kDepth = kFit < 8 ? kFit : 8;  // 8 stages cover 1 us in every format
  static_assert(kDepth >= 3, "a stage is read, one is there, one on its way");
  SMOE_DEVICE static int after(int stage) { return stage == (kDepth - 1) * kStageBytes ? 0 : stage + kStageBytes; }
};

// Rows as this thread copies them, as counts of 16 bytes: chunk tid() % 8 of rows tid() / 8 + 32 i of the tile.
template <int TN>
struct CodeRows {
  uint32_t row[TN * kCodeChunks / kGemmThreads];

  // row_of(i): row i of the tile; rows are `stride` elements apart.
  template <class RowOf>
  SMOE_DEVICE void aim_rows(int64_t stride, RowOf row_of) {
    SMOE_UNROLL
    for (int i = 0; i < TN * kCodeChunks / kGemmThreads; ++i) {
      const uint32_t at = static_cast<uint32_t>(row_of(tid() / kCodeChunks + 32 * i));
      row[i] = at * static_cast<uint32_t>(stride / 8) + tid() % kCodeChunks;
    }
  }
};

// And codes: chunks of row blocks, number tid() + 256 i of a stage.
template <int TN>
struct CodeOperands : CodeRows<TN> {
  uint32_t block[kMostCodeCopies];

  // Row blocks past the end repeat the last one; nobody reads their sums.
  template <class Codes>
  SMOE_DEVICE void aim_codes(int block0, int blocks, int k) {
    using C = CodeStage<Codes>;
    const uint32_t atoms = static_cast<uint32_t>(atoms_along(k, Codes::kCols));
    SMOE_UNROLL
    for (int i = 0; i < C::kCopies; ++i) {
      const int b = block0 + warp() / C::kAtoms + i * (8 / C::kAtoms);
      block[i] = static_cast<uint32_t>(b < blocks ? b : blocks - 1) * atoms * 32 + lane();
    }
  }
};

// Everything about K is reckoned from k, which a kernel has among its arguments: registers are short.
template <class Codes>
SMOE_DEVICE void copy_codes(const U32x4* codes, const uint32_t (&block)[kMostCodeCopies], int k, int stage,
                            unsigned char* to) {
  using C = CodeStage<Codes>;
  const int atom = stage * C::kAtoms / C::kStages + tid() / 32 % C::kAtoms;
  const bool real = atom * Codes::kCols < k;
  const uint32_t at = real ? static_cast<uint32_t>(atom) * 32 : 0;
  SMOE_UNROLL
  for (int i = 0; i < C::kCopies; ++i) cp16(to + (tid() + i * kGemmThreads) * 16, codes + (block[i] + at), real);
}

// Rows [32 first, 32 end) of the tile.
template <int TN>
SMOE_DEVICE void copy_rows(const CodeRows<TN>& in, const bf16* x, int k, int stage, int first, int end,
                           unsigned char* to) {
  const int row = tid() / kCodeChunks, chunk = tid() % kCodeChunks;
  const bool real = (stage * kCodeChunks + chunk) * 8 < k;
  const uint32_t at = real ? static_cast<uint32_t>(stage) * kCodeChunks : 0;
  unsigned char* const place = to + row * 128 + (chunk ^ row % 8) * 16;
  SMOE_UNROLL
  for (int i = first; i < end; ++i) {
    cp16(place + i * 4096, reinterpret_cast<const U32x4*>(x) + (in.row[i] + at), real);
  }
}

// Copies the first stages, of a tile of TN rows or less. Nobody may be reading the ring.
template <int TN, class Codes, int bytes, int kRows>
SMOE_DEVICE void start_codes(const CodeOperands<kRows>& in, const bf16* x, const U32x4* codes, int k,
                             unsigned char* ring) {
  using R = CodeRing<TN, Codes, bytes>;
  SMOE_UNROLL1
  for (int s = 0; s < R::kDepth - 1; ++s) {
    unsigned char* const to = ring + s * R::kStageBytes;
    copy_codes<Codes>(codes, in.block, k, s, to);
    copy_rows(in, x, k, s, 0, CodeShape<TN>::kCopies, to + CodeStage<Codes>::kBytes);
    cp_commit();
  }
}

// Fragments of a k16 step.
template <int kBlocks, int kPairs>
struct CodeStep {
  uint32_t a[kBlocks][4], b[kPairs][4];
};

// acc += the tile, after start_codes(): the first CodeShape<TN>::kTiles groups of eight rows, of which acc may have
// more. asymmetric: there are zero points. Leaves the ring to whoever comes next.
template <int TN, class Codes, bool asymmetric, int bytes, int kRows, int kAccTiles>
SMOE_DEVICE void multiply_wide_codes(const CodeOperands<kRows>& in, const bf16* x, const AtomMatrix& matrix, int block0,
                                     int blocks, int k, unsigned char* ring,
                                     float (&acc)[CodeShape<TN>::kBlocks][kAccTiles][4]) {
  using S = CodeShape<TN>;
  using C = CodeStage<Codes>;
  using R = CodeRing<TN, Codes, bytes>;
  constexpr int kGroupSteps = Codes::kGroupCols / 16;
  const int atoms = static_cast<int>(atoms_along(k, Codes::kCols));
  const int stages = static_cast<int>(atoms_along(k, kCodeSteps * 16));
  const int down = warp() * S::kBlocks;
  const int units = matrix.group > 0 ? matrix.group / Codes::kGroupCols : 1 << 30;  // of kGroupCols in a group
  int left = units;
  WideScales<S::kBlocks, asymmetric> scales(matrix, block0 + down, blocks, atoms * Codes::kCols);
  float sum[S::kBlocks][S::kTiles][4] = {}, x_sum[S::kPairs][4] = {};
  const auto add_group = [&] {
    float scale[S::kBlocks][2], zero[S::kBlocks][2];
    scales.values(scale, zero);
    scales.next();
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) {
      float of_x[2] = {0, 0};
      if constexpr (asymmetric) {  // of rows g and g + 8 of the A operand that two tiles were, for columns of C
        SMOE_UNROLL
        for (int i = 0; i < 2; ++i) of_x[i] = shfl(x_sum[tile / 2][tile % 2 * 2], lane() % 4 * 8 + i * 4);
      }
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) {
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float value = asymmetric ? fma(-zero[b][i >> 1], of_x[i & 1], sum[b][tile][i]) : sum[b][tile][i];
          acc[b][tile][i] = fma(scale[b][i >> 1], value, acc[b][tile][i]);
          sum[b][tile][i] = 0;
        }
      }
    }
    if constexpr (asymmetric) {
      SMOE_UNROLL
      for (int pair = 0; pair < S::kPairs; ++pair) clear(x_sum[pair]);
    }
    left = units;
  };
  const int codes_at = down * C::kAtoms * 512 + lane() * 16;
  const int reader = lane_read_here(), rows_at = C::kBytes + (reader / 16 * 8 + reader % 8) * 128;
  int from = 0, to = (R::kDepth - 1) * R::kStageBytes;  // stages being read and copied, in the ring
  U32x4 atom[S::kBlocks];
  CodeStep<S::kBlocks, S::kPairs> steps[2];
  // Of stage `stage`, in the ring at `from`.
  const auto load = [&](int stage, int step, CodeStep<S::kBlocks, S::kPairs>* out) {
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      if (step % C::kAtomSteps == 0) {
        const int place = b * C::kAtoms + step / C::kAtomSteps;
        atom[b] = lds(reinterpret_cast<const U32x4*>(ring + from + codes_at + place * 512));
        C::next_stage(&atom[b], stage);
      }
    }
    const int chunk = (2 * step + lane() / 8 % 2) ^ lane() % 8;
    SMOE_UNROLL
    for (int pair = 0; pair < S::kPairs; ++pair) {
      ldmatrix_x4(out->b[pair], ring + from + rows_at + chunk * 16 + pair * 2048);
    }
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) Codes::fragment(atom[b], step % C::kAtomSteps, out->a[b]);
  };
  cp_wait<R::kDepth - 2>();
  sync();
  load(0, 0, &steps[0]);
  SMOE_UNROLL1
  for (int stage = 0; stage < stages; ++stage) {
    const int later = stage + R::kDepth - 1;
    SMOE_UNROLL
    for (int step = 0; step < kCodeSteps; ++step) {
      if (step == kCodeSteps - 1) {  // the next stage is there, and nobody reads this one any more
        cp_wait<R::kDepth - 2>();
        sync();
        from = R::after(from);
      }
      load(stage + (step + 1) / kCodeSteps, (step + 1) % kCodeSteps, &steps[(step + 1) % 2]);
      if (step == 0) {
        copy_codes<Codes>(matrix.atoms, in.block, k, later, ring + to);
        copy_rows(in, x, k, later, 0, S::kCopies / 2, ring + to + C::kBytes);
      } else if (step == 1) {
        copy_rows(in, x, k, later, S::kCopies / 2, S::kCopies, ring + to + C::kBytes);
        cp_commit();
        to = R::after(to);
      }
      const CodeStep<S::kBlocks, S::kPairs>& now = steps[step % 2];
      SMOE_UNROLL
      for (int i = 0; i < S::kPairs; ++i) {
        const uint32_t(&r)[4] = now.b[i];
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          mma_bf16(sum[b][2 * i], now.a[b], b0);
          mma_bf16(sum[b][2 * i + 1], now.a[b], b1);
        }
        if constexpr (asymmetric) {  // the rows as A, of which every column of C holds the sums
          const uint32_t as_a[4] = {r[0], r[2], r[1], r[3]}, ones[2] = {0x3F803F80u, 0x3F803F80u};
          mma_bf16(x_sum[i], as_a, ones);
        }
      }
      if ((step + 1) % kGroupSteps == 0 && --left == 0) add_group();
    }
  }
  if (left != units) add_group();
  cp_wait<0>();
  sync();
}

SMOE_DEVICE bool is_codes(AtomFormat format) { return format != AtomFormat::Bf16 && format != AtomFormat::Bf16x3; }

// Aims `in`, whose rows are set, at a matrix of codes and copies the first stages; nothing for other matrices. live:
// rows of the tile that are real, of which the choice of its half depends here and below.
template <int bytes, int TN>
SMOE_DEVICE void start_any_codes(CodeOperands<TN>* in, const bf16* x, const AtomMatrix& matrix, int block0, int blocks,
                                 int k, int live, unsigned char* ring) {
  with_codes(matrix.format, [&](auto format) {
    using Codes = decltype(format);
    in->template aim_codes<Codes>(block0, blocks, k);
    with_rows<TN>(live,
                  [&](auto rows) { start_codes<decltype(rows)::value, Codes, bytes>(*in, x, matrix.atoms, k, ring); });
  });
}

template <int bytes, int TN>
SMOE_DEVICE void multiply_any_codes(const CodeOperands<TN>& in, const bf16* x, const AtomMatrix& matrix, int block0,
                                    int blocks, int k, int live, unsigned char* ring,
                                    float (&acc)[CodeShape<TN>::kBlocks][CodeShape<TN>::kTiles][4]) {
  with_codes(matrix.format, [&](auto format) {
    using Codes = decltype(format);
    const auto multiply = [&](auto asymmetric) {
      constexpr bool zeros = decltype(asymmetric)::value;
      with_rows<TN>(live, [&](auto rows) {
        multiply_wide_codes<decltype(rows)::value, Codes, zeros, bytes>(in, x, matrix, block0, blocks, k, ring, acc);
      });
    };
    if constexpr (Codes::kZeroCode != 0) {
      if (matrix.zeros != nullptr) return multiply(Flag<true>{});
    }
    multiply(Flag<false>{});
  });
}

// acc += a tile of a residual plane. Aims `in`, whose rows are set; nobody may be reading the ring.
template <int bytes, int TN>
SMOE_DEVICE void multiply_wide_plane(CodeOperands<TN>* in, const bf16* x, const AtomMatrix& plane, int block0,
                                     int blocks, int k, int live, unsigned char* ring,
                                     float (&acc)[CodeShape<TN>::kBlocks][CodeShape<TN>::kTiles][4]) {
  in->template aim_codes<SignCodes>(block0, blocks, k);
  with_rows<TN>(live, [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    start_codes<kRows, SignCodes, bytes>(*in, x, plane.atoms, k, ring);
    multiply_wide_codes<kRows, SignCodes, false, bytes>(*in, x, plane, block0, blocks, k, ring, acc);
  });
}

// The ring for a kernel whose bf16 stages are of kAtoms (WideShape): 163 KB of a block on sm_80, or kLeastShared, less
// what its other arrays take.
template <int kAtoms>
constexpr int kCodeRingBytes = (kAtoms == 4 ? 144 : 80) * 1024;

}  // namespace smoe::cu
