// The tile of the prefill GEMMs for weights of codes and one bf16 plane of activations whose rows are whole 16-byte
// chunks: 128 packed weight rows times TN activation rows. Codes and rows both go through a ring of stages of 64
// columns. As in gemm_codes.cuh the f32 sum of a group is multiplied by its scale and added to the accumulators, in the
// same order, so that the choice between the files does not show in the bits. A warp holds 32 x 64 sums twice: those of
// a group and those of all.
#pragma once

#include "kernels/experts/gemm_tile.cuh"
#include "kernels/experts/multiply_codes.cuh"

namespace smoe::cu {

constexpr int kCodeChunks = 8, kCodeUnits = 2;  // 16 bytes of rows, 32 columns: of a stage

// The warps are those of GemmShape<TN>.
template <int TN>
struct CodeShape {
  static constexpr int kCopies = TN * kCodeChunks / kGemmThreads;
  static constexpr int kCodeBytes = kGemmBlocks * 1024, kStageBytes = kCodeBytes + TN * kCodeChunks * 16;
  static constexpr int kRing = 3;  // 72 KB of the 99 that sm_86 has
  static constexpr int kBytes = kRing * kStageBytes;
};

// Rows as this thread copies them, as counts of 16 bytes: chunk tid() % 8 of rows tid() / 8 + 32 i. Rows past the end
// repeat the last one; nobody reads their sums.
template <int TN>
struct CodeRows {
  const U32x4* x;
  uint32_t row[CodeShape<TN>::kCopies];
};

// A stage of codes: of each row block the atoms that hold its columns, whole ones.
template <class Codes>
struct CodeStage {
  static constexpr int kAtoms = Codes::kCols <= 64 ? 64 / Codes::kCols : 1;   // of a row block
  static constexpr int kStages = Codes::kCols <= 64 ? 1 : Codes::kCols / 64;  // that an atom lasts
  static constexpr int kCopies = kGemmBlocks * kAtoms * 32 / kGemmThreads;
};

// Everything about K is reckoned from k, which a kernel has among its arguments: registers are short.
template <int TN, class Codes>
SMOE_DEVICE void copy_codes(const CodeRows<TN>& rows, const U32x4* codes,
                            const uint32_t (&block)[CodeStage<Codes>::kCopies], int k, int stage, unsigned char* to) {
  using C = CodeStage<Codes>;
  const int atom = stage * C::kAtoms / C::kStages + tid() / 32 % C::kAtoms;
  const bool codes_real = atom * Codes::kCols < k;
  const uint32_t codes_at = codes_real ? static_cast<uint32_t>(atom) * 32 : 0;
  SMOE_UNROLL
  for (int i = 0; i < C::kCopies; ++i) {
    cp16(to + (tid() + i * kGemmThreads) * 16, codes + (block[i] + codes_at), codes_real);
  }
  const int row = tid() / kCodeChunks, chunk = tid() % kCodeChunks;
  const bool real = (stage * kCodeChunks + chunk) * 8 < k;
  const uint32_t at = real ? static_cast<uint32_t>(stage) * kCodeChunks : 0;
  unsigned char* const place = to + CodeShape<TN>::kCodeBytes + row * 128 + (chunk ^ row % 8) * 16;
  SMOE_UNROLL
  for (int i = 0; i < CodeShape<TN>::kCopies; ++i) cp16(place + i * 4096, rows.x + (rows.row[i] + at), real);
}

// Scales and zero points of a warp's row blocks, group after group: GroupScales of several. matrix() gives the matrix
// anew each time, so that nothing of it takes registers between groups.
template <int kBlocks, class Matrix>
struct WideScales {
  Matrix matrix;
  uint32_t at[kBlocks];
  int left;
  float scale[kBlocks][2], zero[kBlocks][2];

  SMOE_DEVICE WideScales(Matrix of, int block0, int blocks, int padded) : matrix(of) {
    const int group = matrix().group;
    left = group > 0 ? (padded + group - 1) / group : 1;
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const int block = block0 + b < blocks ? block0 + b : blocks - 1;
      at[b] = static_cast<uint32_t>(block * left) * kAtomRows + lane() / 4;
    }
    load();
  }
  SMOE_DEVICE void next() {
    if (--left <= 0) return;
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) at[b] += kAtomRows;
    load();
  }
  SMOE_DEVICE void load() {
    const AtomMatrix m = matrix();
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      SMOE_UNROLL
      for (int half = 0; half < 2; ++half) {
        scale[b][half] = plane_value(m.scales, m.scale_type, at[b] + 8 * half) * m.mul;
        if (m.zeros != nullptr) zero[b][half] = plane_value(m.zeros, m.scale_type, at[b] + 8 * half);
      }
    }
  }
};

// acc += the tile, of which `live` rows are real: a warp that has none multiplies nothing.
template <int TN, class Codes, class Matrix>
SMOE_DEVICE void multiply_wide_codes(const CodeRows<TN>& rows, Matrix matrix_of, int block0, int blocks, int k,
                                     int live, unsigned char* ring,
                                     float (&acc)[GemmShape<TN>::kBlocks][GemmShape<TN>::kTiles][4]) {
  using S = GemmShape<TN>;
  using R = CodeShape<TN>;
  using C = CodeStage<Codes>;
  const AtomMatrix matrix = matrix_of();
  constexpr int kGroupSteps = Codes::kGroupCols / 16, kPairs = S::kTiles / 2;
  const int atoms = static_cast<int>(atoms_along(k, Codes::kCols));
  const int down = warp() % S::kWarpsDown * S::kBlocks, across = warp() / S::kWarpsDown * S::kTiles * 8;
  uint32_t block[C::kCopies];
  SMOE_UNROLL
  for (int i = 0; i < C::kCopies; ++i) {
    const int chunk = tid() + i * kGemmThreads, b = block0 + chunk / (C::kAtoms * 32);
    block[i] = static_cast<uint32_t>(b < blocks ? b : blocks - 1) * static_cast<uint32_t>(atoms * 32) + chunk % 32;
  }
  const auto copy = [&](int stage, unsigned char* to) {
    copy_codes<TN, Codes>(rows, matrix.atoms, block, k, stage, to);
  };
  SMOE_UNROLL
  for (int s = 0; s < R::kRing - 1; ++s) {
    if (s * kCodeUnits * kUnitCols < k) copy(s, ring + s * R::kStageBytes);
    cp_commit();
  }
  const int units = matrix.group > 0 ? matrix.group / Codes::kGroupCols : 1 << 30;  // of kGroupCols in a group
  int left = units;
  const bool zeros = matrix.zeros != nullptr;
  WideScales<S::kBlocks, Matrix> scales(matrix_of, block0 + down, blocks, atoms * Codes::kCols);
  float sum[S::kBlocks][S::kTiles][4] = {}, x_sum[kPairs][4] = {};
  const auto add_group = [&] {
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) {
      float x[2] = {0, 0};
      if (zeros) {  // of rows g and g + 8 of the A operand that two tiles were, for columns 2 t and 2 t + 1 of C
        SMOE_UNROLL
        for (int i = 0; i < 2; ++i) x[i] = shfl(x_sum[tile / 2][tile % 2 * 2], lane() % 4 * 8 + i * 4);
      }
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) {
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float value = zeros ? fma(-scales.zero[b][i >> 1], x[i & 1], sum[b][tile][i]) : sum[b][tile][i];
          acc[b][tile][i] = fma(scales.scale[b][i >> 1], value, acc[b][tile][i]);
          sum[b][tile][i] = 0;
        }
      }
    }
    if (zeros) {
      SMOE_UNROLL
      for (int pair = 0; pair < kPairs; ++pair) clear(x_sum[pair]);
    }
    scales.next();
    left = units;
  };
  const int codes_at = down * C::kAtoms * 512 + lane() * 16;
  const int rows_at = R::kCodeBytes + (across + lane() / 16 * 8 + lane() % 8) * 128;
  int from = 0, to = (R::kRing - 1) * R::kStageBytes;  // stages being read and copied, in the ring
  const auto after = [](int stage) { return stage == (R::kRing - 1) * R::kStageBytes ? 0 : stage + R::kStageBytes; };
  U32x4 atom[S::kBlocks];
  uint32_t x[2][4];  // two tiles' rows, and the next two's
  // unit: counted from the first column on.
  const auto load_atoms = [&](int unit) {
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) {
      const int place = b * C::kAtoms + unit % C::kAtoms;
      atom[b] = lds(reinterpret_cast<const U32x4*>(ring + from + codes_at + place * 512));
      if (C::kStages > 1 && unit / kCodeUnits % C::kStages != 0) {
        SMOE_UNROLL
        for (int i = 0; i < kCodeUnits; ++i) advance_atom<Codes::kCols>(&atom[b]);
      }
    }
  };
  const auto load_pair = [&](int step, int pair) {
    const int chunk = (2 * step + lane() / 8 % 2) ^ lane() % 8;
    ldmatrix_x4(x[pair % 2], ring + from + rows_at + chunk * 16 + pair * 2048);
  };
  cp_wait<R::kRing - 2>();
  sync();
  load_atoms(0);
  load_pair(0, 0);
  SMOE_UNROLL1
  for (int unit = 0; unit * kUnitCols < k; ++unit) {
    const bool last = (unit + 1) * kUnitCols >= k;
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t a[S::kBlocks][4];
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) Codes::fragment(atom[b], half, a[b]);
      if (half == 0 && unit % kCodeUnits == 0) {
        const int later = unit / kCodeUnits + R::kRing - 1;
        if (later * kCodeUnits * kUnitCols < k) copy(later, ring + to);
        cp_commit();
        to = after(to);
      }
      const int step = unit % kCodeUnits * 2 + half;
      SMOE_UNROLL
      for (int i = 0; i < kPairs; ++i) {
        if (i + 1 < kPairs) {
          load_pair(step, i + 1);
        } else if (half == 0) {
          load_pair(step + 1, 0);
        } else if (!last) {
          if (unit % kCodeUnits == kCodeUnits - 1) {  // the next stage is there, and nobody reads this one any more
            cp_wait<R::kRing - 2>();
            sync();
            from = after(from);
          }
          load_pair((step + 1) % (2 * kCodeUnits), 0);
          if (C::kAtoms > 1 || unit % kCodeUnits == kCodeUnits - 1) {
            load_atoms(unit + 1);
          } else {
            SMOE_UNROLL
            for (int b = 0; b < S::kBlocks; ++b) advance_atom<Codes::kCols>(&atom[b]);
          }
        }
        if (across >= live) continue;
        const uint32_t(&r)[4] = x[i % 2];
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          mma_bf16(sum[b][2 * i], a[b], b0);
          mma_bf16(sum[b][2 * i + 1], a[b], b1);
        }
        if (zeros) {  // the rows as A, of which every column of C holds the sums
          const uint32_t as_a[4] = {r[0], r[2], r[1], r[3]}, ones[2] = {0x3F803F80u, 0x3F803F80u};
          mma_bf16(x_sum[i], as_a, ones);
        }
      }
      if ((half + 1) % kGroupSteps == 0 && (--left == 0 || (last && half == 1))) add_group();
    }
  }
  cp_wait<0>();
  sync();
}

}  // namespace smoe::cu
