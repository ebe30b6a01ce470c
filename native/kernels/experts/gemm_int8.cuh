// The tile of the prefill GEMMs for integer weights and int8 activations: activations and what belongs to their groups
// go through a ring in shared memory, codes straight into registers (as in gemm_codes.cuh). One warp runs over the
// whole of K, group after group: neither the tile nor the rows beside it show in the bits.
#pragma once

#include "kernels/experts/gemm_codes.cuh"
#include "kernels/experts/multiply_int8.cuh"

namespace smoe::cu {

template <int TN>
struct Int8Shape {
  static constexpr int kTiles = TN / 8;  // of eight rows; a warp has one row block
  static constexpr int kChunks = kInt8Block / 16, kCopies = TN * kChunks / kGemmThreads;
  static constexpr int kStride =
      kInt8Block + 16;  // an odd multiple of 16: the eight rows of ldmatrix meet no bank twice
  static constexpr int kSlots = kInt8Block / 32;  // groups that a stage can touch
  static constexpr int kStageBytes = TN * kStride + kSlots * TN * 8, kBytes = kStages * kStageBytes;
  static_assert(kSlots * TN <= kGemmThreads, "one pair per thread");
};

// What one tile multiplies. row: of x, that this thread copies chunks of; negative: zeros.
template <int TN>
struct Int8Operands {
  Int8Rows x;
  int64_t k, blocks, block0;  // columns; row blocks of the matrix; first of the tile
  int64_t row[Int8Shape<TN>::kCopies];
  int64_t scale_row;  // of the pair that this thread copies
};

template <int TN>
SMOE_DEVICE void load_codes(const Int8Operands<TN>& in, int stage, unsigned char* to) {
  using S = Int8Shape<TN>;
  SMOE_UNROLL
  for (int i = 0; i < S::kCopies; ++i) {
    const int chunk = tid() + i * kGemmThreads;
    const bool real = in.row[i] >= 0;
    const uint8_t* const from =
        real ? in.x.codes + off(in.row[i], in.x.stride) + stage * kInt8Block + chunk % S::kChunks * 16 : in.x.codes;
    cp16(to + chunk / S::kChunks * S::kStride + chunk % S::kChunks * 16, from, real);
  }
}

// Pairs of scale and sum [slots][TN] of the groups from the one on that column 128 * stage lies in. Past the last group
// it is repeated.
SMOE_DEVICE int first_group(int stage, int group) { return group > 0 ? stage * kInt8Block / group : 0; }
template <int TN>
SMOE_DEVICE U32x2 load_scales(const Int8Operands<TN>& in, int stage, int group) {
  if (in.scale_row < 0 || tid() >= Int8Shape<TN>::kSlots * TN) return U32x2{};
  const int last = static_cast<int>(int8_groups(in.k, group)) - 1, at = first_group(stage, group) + tid() / TN;
  return ldg(in.x.scales + off(in.scale_row, in.x.groups) + (at < last ? at : last));
}
template <int TN>
SMOE_DEVICE void store_scales(const U32x2& pair, unsigned char* stage) {
  using S = Int8Shape<TN>;
  if (tid() < S::kSlots * TN) sts(reinterpret_cast<U32x2*>(stage + TN * S::kStride) + tid(), pair);
}

template <int TN, class Codes>
SMOE_DEVICE void multiply_int8_tile(const Int8Operands<TN>& in, const AtomMatrix& matrix, unsigned char* ring,
                                    float (&acc)[Int8Shape<TN>::kTiles][4]) {
  using S = Int8Shape<TN>;
  constexpr int kAtomSteps = Codes::kCols / 32;
  const int atoms = static_cast<int>(atoms_along(in.k, Codes::kCols)), steps = atoms * kAtomSteps,
            stages = static_cast<int>(int8_stride(in.k) / kInt8Block);
  const int units = matrix.group > 0 ? matrix.group / 32 : 1 << 30;
  int left = units, group = 0;
  CodeStream<Codes, 1> stream;
  stream.start(matrix, atoms, in.block0 + warp(), in.blocks);
  GroupScales scales;
  const int64_t block = in.block0 + warp();
  scales.start(matrix, block < in.blocks ? block : in.blocks - 1, 0, int64_t{atoms} * Codes::kCols);
  int32_t sum[S::kTiles][4] = {};
  // slot: of the group in the stage.
  const auto add_group = [&](const unsigned char* stage, int slot) {
    const U32x2* const pairs = reinterpret_cast<const U32x2*>(stage + TN * S::kStride) + slot * TN + lane() % 4 * 2;
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) {
      const U32x4 two = lds(reinterpret_cast<const U32x4*>(pairs + tile * 8));
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int c = i % 2, half = i / 2;
        const float value = int8_value(sum[tile][i], Codes::kZeroCode, static_cast<int32_t>(two.x[2 * c + 1]),
                                       scales.symmetric(), scales.zero(half));
        acc[tile][i] = fma(value * scales.scale(half), bit_cast<float>(two.x[2 * c]), acc[tile][i]);
        sum[tile][i] = 0;
      }
    }
    scales.next();
    left = units;
    ++group;
  };
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < stages) {
      load_codes<TN>(in, s, ring + s * S::kStageBytes);
      store_scales<TN>(load_scales<TN>(in, s, matrix.group), ring + s * S::kStageBytes);
    }
    cp_commit();
  }
  U32x2 ahead{};  // of stage + kStages - 2, on their way for one stage
  for (int stage = 0; stage < stages; ++stage) {
    cp_wait<kStages - 2>();
    sync();
    if (stage > 0) store_scales<TN>(ahead, ring + (stage + kStages - 2) % kStages * S::kStageBytes);
    const unsigned char* const here = ring + stage % kStages * S::kStageBytes;
    SMOE_UNROLL
    for (int s = 0; s < kInt8Block / 32; ++s) {
      const int step = stage * (kInt8Block / 32) + s;
      if (step >= steps) break;
      if (s % kAtomSteps == 0) stream.next(step / kAtomSteps, atoms);
      uint32_t a[4];
      Codes::bytes(stream.atom[0], s % kAtomSteps, a);
      SMOE_UNROLL
      for (int tile = 0; tile < S::kTiles; tile += 2) {
        const int row = tile * 8 + lane() / 16 * 8 + lane() % 8;
        uint32_t r[4];
        ldmatrix_x4(r, here + row * S::kStride + s * 32 + lane() / 8 % 2 * 16);
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        mma_u8s8(sum[tile], a, b0);
        mma_u8s8(sum[tile + 1], a, b1);
      }
      if (--left == 0) add_group(here, group - first_group(stage, matrix.group));
    }
    if (stage == stages - 1 && left != units) add_group(here, group - first_group(stage, matrix.group));
    // The ring's place that everybody left before the barrier above.
    const int next = stage + kStages - 1;
    if (next < stages) {
      load_codes<TN>(in, next, ring + next % kStages * S::kStageBytes);
      ahead = load_scales<TN>(in, next, matrix.group);
    }
    cp_commit();
  }
  cp_wait<0>();
  sync();
}

}  // namespace smoe::cu
