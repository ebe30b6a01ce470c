// The tile of the prefill GEMMs on mma.sync where both operands are one bf16 plane and rows are whole 16-byte chunks:
// 256 packed weight rows times TN activation rows (specs/cuda-kernels.md 2.7). Sums run over k ascending, as in
// gemm_tile.cuh: neither TN nor the choice between the two files shows in the bits.
//
// A warp of the large tile has 64 x 64 sums. Per k16 step of a block of 8 warps, on one SM:
//   tensor cores    256 mma at 1.65 clk (645 TFLOP/s measured on an H200)                                  = 422 clk
//   shared memory   8 warps x (4 A + 4 B) fragments of 512 bytes, 12 KB of copies in, at 128 bytes/clk     = 352 clk
//   L2              12 KB at about 27 bytes/clk (what all SMs together get)                                = 455 clk
// With 32 x 64 sums of a warp and 128 x 128 of a block the last two are 480 and 303 clk for 128 mma, 211 clk. Fragments
// of the next step are loaded while this one multiplies, for which ptxas must see one straight run of instructions:
// where it made branches of the conditions around the copies, a block of experts lost 10 % (measured on an H200).
// Stages of 64 columns are 48 KB: three fit the 163 KB of sm_80, and two in flight cover 3000 clk. Where a block has
// 99 KB stages have 32 columns, which asks for twice the barriers and costs 5 to 9 % on an H200.
#pragma once

#include "kernels/experts/gemm_tile.cuh"

namespace smoe::cu {

constexpr int kWideBlocks = 16;             // row blocks of a tile
constexpr size_t kLeastShared = 99 * 1024;  // of a block on sm_86, sm_89 and sm_120; sm_80 has 163 KB

// kStageAtoms: of a stage along K.
template <int TN, int kStageAtoms>
struct WideShape {
  static constexpr int kRows = TN, kAtoms = kStageAtoms, kChunks = 2 * kAtoms;  // chunks of a row: 16 bytes
  static constexpr int kAcross = TN == 128 ? 2 : 1, kDown = 8 / kAcross;        // warps
  // Row blocks and groups of 8 rows, of a warp.
  static constexpr int kBlocks = kWideBlocks / kDown, kTiles = TN / 8 / kAcross;
  static constexpr int kWeightCopies = kWideBlocks * kAtoms * 32 / kGemmThreads,
                       kRowCopies = (TN * kChunks + kGemmThreads - 1) / kGemmThreads;
  static constexpr int kBlockBytes = kAtoms * 512, kRowBytes = kChunks * 16;
  static constexpr int kWeightBytes = kWideBlocks * kBlockBytes, kStageBytes = kWeightBytes + TN * kRowBytes;
  static constexpr int kStages = TN == 128 || TN * kAtoms == 256 ? 3 : 4;
  static constexpr int kBytes = kStages * kStageBytes;
  // Where chunk `chunk` of row `row` is, so that eight neighbouring rows meet no bank twice.
  SMOE_DEVICE static int swizzled(int row, int chunk) { return chunk ^ row / (8 / kChunks) % kChunks; }
};

// What this thread copies, as counts of 16 bytes, which reach 64 GB: of the chunks of row blocks, and then of rows,
// number tid() + 256 i. Row blocks and rows past the end repeat the last one; nobody reads their sums.
template <class S>
struct WideOperands {
  const U32x4 *weights, *x;
  uint32_t block[S::kWeightCopies], row[S::kRowCopies];
  int atoms, chunks;  // along K
};

// Share `part` of the copies of a stage, of as many as it has k16 steps. `in` may be that of a shape of more rows.
template <class S, class Whole>
SMOE_DEVICE void copy_wide(const WideOperands<Whole>& in, int stage, int part, unsigned char* to) {
  {
    const bool real = stage * S::kAtoms + tid() / 32 % S::kAtoms < in.atoms;
    const uint32_t at = real ? static_cast<uint32_t>(stage) * (S::kAtoms * 32) : 0;
    SMOE_UNROLL
    for (int i = part * 2; i < part * 2 + 2; ++i) {
      cp16(to + tid() * 16 + i * (kGemmThreads * 16), in.weights + (in.block[i] + at), real);
    }
  }
  const int row = tid() / S::kChunks, chunk = tid() % S::kChunks;
  const bool real = stage * S::kChunks + chunk < in.chunks;
  const uint32_t at = real ? static_cast<uint32_t>(stage) * S::kChunks : 0;
  unsigned char* const rows = to + S::kWeightBytes + row * S::kRowBytes + S::swizzled(row, chunk) * 16;
  SMOE_UNROLL
  for (int i = part; i < S::kRowCopies; i += S::kAtoms) {
    if (S::kRows * S::kChunks < kGemmThreads && row >= S::kRows) break;
    cp16(rows + i * (kGemmThreads * 16), in.x + (in.row[i] + at), real);
  }
}

// Aims `in`, whose weights and x are those of the whole matrices, at the tile from row block `block0` of `blocks` on,
// row_of(i) its rows, `stride` chunks apart; and copies the first stages. Nobody may be reading the ring.
template <class S, class Whole, class RowOf>
SMOE_DEVICE void start_wide(WideOperands<Whole>* aimed, unsigned char* ring, int block0, int blocks, uint32_t stride,
                            RowOf row_of) {
  static_assert(S::kWeightCopies == Whole::kWeightCopies && S::kRowCopies <= Whole::kRowCopies, "the same threads");
  WideOperands<Whole>& in = *aimed;
  const uint32_t thread = static_cast<uint32_t>(tid());  // unsigned: divided by shifts, nothing kept for them
  in.weights += thread % (S::kAtoms * 32);
  in.x += thread % S::kChunks;
  SMOE_UNROLL
  for (int i = 0; i < S::kWeightCopies; ++i) {
    const int block = block0 + static_cast<int>((thread + i * kGemmThreads) / (S::kAtoms * 32));
    in.block[i] = static_cast<uint32_t>(block < blocks ? block : blocks - 1) * static_cast<uint32_t>(in.atoms * 32);
  }
  SMOE_UNROLL
  for (int i = 0; i < S::kRowCopies; ++i) {
    in.row[i] = static_cast<uint32_t>(row_of(static_cast<int>((thread + i * kGemmThreads) / S::kChunks))) * stride;
  }
  SMOE_UNROLL
  for (int s = 0; s < S::kStages - 1; ++s) {
    if (s * S::kAtoms < in.atoms) {
      SMOE_UNROLL
      for (int part = 0; part < S::kAtoms; ++part) copy_wide<S>(in, s, part, ring + s * S::kStageBytes);
    }
    cp_commit();
  }
}

// Fragments of a k16 step.
template <class S>
struct WideStep {
  U32x4 a[S::kBlocks];
  uint32_t b[S::kTiles / 2][4];

  // weights, rows: this warp's and lane's, at the beginning of a stage.
  SMOE_DEVICE void load(const unsigned char* weights, const unsigned char* rows, int step) {
    SMOE_UNROLL
    for (int i = 0; i < S::kBlocks; ++i) {
      a[i] = lds(reinterpret_cast<const U32x4*>(weights + i * S::kBlockBytes + step * 512));
    }
    const int chunk = S::swizzled(lane() % 8, 2 * step + lane() / 8 % 2);
    SMOE_UNROLL
    for (int i = 0; i < S::kTiles / 2; ++i) ldmatrix_x4(b[i], rows + chunk * 16 + i * (16 * S::kRowBytes));
  }
  SMOE_DEVICE void multiply(float (&acc)[S::kBlocks][S::kTiles][4]) const {
    SMOE_UNROLL
    for (int i = 0; i < S::kTiles / 2; ++i) {
      const uint32_t b0[2] = {b[i][0], b[i][1]}, b1[2] = {b[i][2], b[i][3]};
      SMOE_UNROLL
      for (int block = 0; block < S::kBlocks; ++block) {
        mma_bf16(acc[block][2 * i], a[block].x, b0);
        mma_bf16(acc[block][2 * i + 1], a[block].x, b1);
      }
    }
  }
};

// acc += the tile, after start_wide() of the same shape. Leaves the ring to whoever comes next. Rows that are not real
// are multiplied too: with branches that skipped them, DRAM was read 2.4 times as much on an H200 and Mixtral's block
// took 7 % longer.
template <class S, class Whole>
SMOE_DEVICE void multiply_wide(const WideOperands<Whole>& in, unsigned char* ring,
                               float (&acc)[S::kBlocks][S::kTiles][4]) {
  const int stages = (in.atoms + S::kAtoms - 1) / S::kAtoms;
  const int weights = warp() % S::kDown * S::kBlocks * S::kBlockBytes + lane() * 16;
  const int rows = S::kWeightBytes + (warp() / S::kDown * S::kTiles * 8 + lane() / 16 * 8 + lane() % 8) * S::kRowBytes;
  unsigned char *from = ring, *to = ring + (S::kStages - 1) * S::kStageBytes;
  const auto after = [&](unsigned char* stage) {
    return stage == ring + (S::kStages - 1) * S::kStageBytes ? ring : stage + S::kStageBytes;
  };
  WideStep<S> steps[2];
  cp_wait<S::kStages - 2>();
  sync();
  steps[0].load(from + weights, from + rows, 0);
  for (int s = 0; s < stages; ++s) {
    const int next = s + S::kStages - 1;
    SMOE_UNROLL
    for (int step = 0; step < S::kAtoms; ++step) {
      if (step == S::kAtoms - 1) {
        // The next stage is there, and nobody reads this one any more. After the last one its first step is loaded
        // again, for nobody.
        cp_wait<S::kStages - 2>();
        sync();
        if (s + 1 < stages) from = after(from);
      }
      steps[(step + 1) % 2].load(from + weights, from + rows, (step + 1) % S::kAtoms);
      if (step < S::kAtoms - 1 && next < stages) {
        copy_wide<S>(in, next, step, to);
        if (step == S::kAtoms - 2) copy_wide<S>(in, next, step + 1, to);
      }
      if (step == S::kAtoms - 2) cp_commit();
      steps[step % 2].multiply(acc);
    }
    to = after(to);
  }
  cp_wait<0>();
  sync();
}

}  // namespace smoe::cu
