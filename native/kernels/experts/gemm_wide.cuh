// The tile of the prefill GEMMs on mma.sync where both operands are one bf16 plane and rows are whole 16-byte chunks:
// 256 packed weight rows times TN activation rows (specs/cuda-kernels.md 2.7). Sums run over k ascending, as in
// gemm_tile.cuh: neither TN nor the choice between the two files shows in the bits.
//
// A warp of the large tile has 64 x 64 sums. Per k16 step of a block of 8 warps, on one SM:
//   tensor cores    256 mma at 1.65 clk (645 TFLOP/s measured on an H200)                                  = 422 clk
//   shared memory   8 warps x (4 A + 4 B) fragments of 512 bytes, 12 KB of copies in, at 128 bytes/clk     = 352 clk
//   L2              12 KB at about 27 bytes/clk (what all SMs together get)                                = 455 clk
// With 32 x 64 sums of a warp and 128 x 128 of a block the last two are 480 and 303 clk for 128 mma, 211 clk. Fragments
// of the next step are loaded while this one multiplies. Stages of 64 columns: 48 KB, three fit the 163 KB of sm_80,
// and two in flight cover 3000 clk.
#pragma once

#include "kernels/experts/gemm_tile.cuh"

namespace smoe::cu {

constexpr int kWideBlocks = 16;                 // row blocks of a tile
constexpr int kWideAtoms = 4, kWideChunks = 8;  // of a stage along K: 64 columns
constexpr int kWideBlockBytes = kWideAtoms * 512;

template <int TN>
struct WideShape {
  static constexpr int kAcross = TN == 128 ? 2 : 1, kDown = 8 / kAcross;  // warps
  static constexpr int kBlocks = kWideBlocks / kDown,
                       kTiles = TN / 8 / kAcross;  // row blocks and groups of 8 rows, of a warp
  static constexpr int kCopies = (TN * kWideChunks + kGemmThreads - 1) / kGemmThreads;
  static constexpr int kWeightBytes = kWideBlocks * kWideBlockBytes, kStageBytes = kWeightBytes + TN * kWideChunks * 16;
  static constexpr int kStages = TN >= 64 ? 3 : 4;
  static constexpr int kBytes = kStages * kStageBytes;
};

// What this thread copies, as counts of 16 bytes, which reach 64 GB: chunk tid() % 128 of a stage of row blocks
// tid() / 128 + 2 i, chunk tid() % 8 of rows tid() / 8 + 32 i. Row blocks and rows past the end repeat the last one;
// nobody reads their sums.
template <int TN>
struct WideOperands {
  const U32x4 *weights, *x;
  uint32_t block[kWideBlocks / 2], row[WideShape<TN>::kCopies];
  int atoms, chunks;  // along K
};

// Quarter `part` of the copies of a stage.
template <int TN>
SMOE_DEVICE void copy_wide(const WideOperands<TN>& in, int stage, int part, unsigned char* to) {
  using S = WideShape<TN>;
  {
    const bool real = stage * kWideAtoms + tid() / 32 % kWideAtoms < in.atoms;
    const uint32_t at = real ? static_cast<uint32_t>(stage) * (kWideAtoms * 32) : 0;
    SMOE_UNROLL
    for (int i = part * 2; i < part * 2 + 2; ++i)
      cp16(to + tid() * 16 + i * 4096, in.weights + (in.block[i] + at), real);
  }
  const int row = tid() / kWideChunks, chunk = tid() % kWideChunks;
  const bool real = stage * kWideChunks + chunk < in.chunks;
  const uint32_t at = real ? static_cast<uint32_t>(stage) * kWideChunks : 0;
  unsigned char* const rows = to + S::kWeightBytes + row * 128 + (chunk ^ row % 8) * 16;
  SMOE_UNROLL
  for (int i = part; i < S::kCopies; i += 4) {
    if (TN * kWideChunks >= kGemmThreads || row < TN) cp16(rows + i * 4096, in.x + (in.row[i] + at), real);
  }
}

// Copies of the first stages; nobody may be reading the ring.
template <int TN>
SMOE_DEVICE void start_wide(const WideOperands<TN>& in, unsigned char* ring) {
  using S = WideShape<TN>;
  SMOE_UNROLL
  for (int s = 0; s < S::kStages - 1; ++s) {
    if (s * kWideAtoms < in.atoms) {
      SMOE_UNROLL
      for (int part = 0; part < 4; ++part) copy_wide<TN>(in, s, part, ring + s * S::kStageBytes);
    }
    cp_commit();
  }
}

// Fragments of a k16 step.
template <int TN>
struct WideStep {
  U32x4 a[WideShape<TN>::kBlocks];
  uint32_t b[WideShape<TN>::kTiles / 2][4];

  // weights, rows: this warp's and lane's, at the beginning of a stage. Rows are 128 bytes, chunks swizzled.
  SMOE_DEVICE void load(const unsigned char* weights, const unsigned char* rows, int step) {
    SMOE_UNROLL
    for (int i = 0; i < WideShape<TN>::kBlocks; ++i) {
      a[i] = lds(reinterpret_cast<const U32x4*>(weights + i * kWideBlockBytes + step * 512));
    }
    const int chunk = (2 * step + lane() / 8 % 2) ^ lane() % 8;
    SMOE_UNROLL
    for (int i = 0; i < WideShape<TN>::kTiles / 2; ++i) ldmatrix_x4(b[i], rows + chunk * 16 + i * 2048);
  }
  // live: rows of this warp that are real; partial: there may be fewer than all.
  template <bool partial>
  SMOE_DEVICE void multiply(float (&acc)[WideShape<TN>::kBlocks][WideShape<TN>::kTiles][4], int live) const {
    SMOE_UNROLL
    for (int i = 0; i < WideShape<TN>::kTiles / 2; ++i) {
      if (partial && 16 * i >= live) break;
      const uint32_t b0[2] = {b[i][0], b[i][1]}, b1[2] = {b[i][2], b[i][3]};
      SMOE_UNROLL
      for (int block = 0; block < WideShape<TN>::kBlocks; ++block) {
        mma_bf16(acc[block][2 * i], a[block].x, b0);
        mma_bf16(acc[block][2 * i + 1], a[block].x, b1);
      }
    }
  }
};

template <int TN, bool partial>
SMOE_DEVICE void multiply_wide_part(const WideOperands<TN>& in, unsigned char* ring, int live,
                                    float (&acc)[WideShape<TN>::kBlocks][WideShape<TN>::kTiles][4]) {
  using S = WideShape<TN>;
  const int stages = (in.atoms + kWideAtoms - 1) / kWideAtoms;
  const int weights = warp() % S::kDown * S::kBlocks * kWideBlockBytes + lane() * 16;
  const int rows = S::kWeightBytes + (warp() / S::kDown * S::kTiles * 8 + lane() / 16 * 8 + lane() % 8) * 128;
  unsigned char *from = ring, *to = ring + (S::kStages - 1) * S::kStageBytes;
  const auto after = [&](unsigned char* stage) {
    return stage == ring + (S::kStages - 1) * S::kStageBytes ? ring : stage + S::kStageBytes;
  };
  WideStep<TN> steps[2];
  cp_wait<S::kStages - 2>();
  sync();
  steps[0].load(from + weights, from + rows, 0);
  for (int s = 0; s < stages; ++s) {
    const int next = s + S::kStages - 1;
    SMOE_UNROLL
    for (int step = 0; step < kWideAtoms; ++step) {
      if (step == kWideAtoms - 1) {
        // The next stage is there, and nobody reads this one any more. After the last one its first step is loaded
        // again, for nobody.
        cp_wait<S::kStages - 2>();
        sync();
        if (s + 1 < stages) from = after(from);
      }
      steps[(step + 1) % 2].load(from + weights, from + rows, (step + 1) % kWideAtoms);
      if (step < kWideAtoms - 1 && next < stages) {
        copy_wide<TN>(in, next, step, to);
        if (step == kWideAtoms - 2) copy_wide<TN>(in, next, step + 1, to);
      }
      if (step == kWideAtoms - 2) cp_commit();
      steps[step % 2].template multiply<partial>(acc, live);
    }
    to = after(to);
  }
  cp_wait<0>();
  sync();
}

// acc += the tile, of which `live` rows are real, after start_wide(). Leaves the ring to whoever comes next.
template <int TN>
SMOE_DEVICE void multiply_wide(const WideOperands<TN>& in, unsigned char* ring, int live,
                               float (&acc)[WideShape<TN>::kBlocks][WideShape<TN>::kTiles][4]) {
  using S = WideShape<TN>;
  const int mine = live - warp() / S::kDown * S::kTiles * 8;
  if (mine > (S::kTiles - 2) * 8) {
    multiply_wide_part<TN, false>(in, ring, mine, acc);
  } else {  // warps of one block may go both ways: the barriers are the same
    multiply_wide_part<TN, true>(in, ring, mine, acc);
  }
}

}  // namespace smoe::cu
