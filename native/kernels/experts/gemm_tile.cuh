// The tile of the prefill GEMMs on mma.sync (specs/cuda-kernels.md 2.7): 128 packed weight rows times TN activation
// rows. Every sum runs over the pairs of parts, then over k ascending, whatever TN is: the tile does not show in the
// bits.
#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms.h"
#include "kernels/experts/expert_args.h"
#include "kernels/experts/tile_sizes.h"

namespace smoe::cu {

constexpr int kGemmThreads = 256, kGemmBlocks = 8;         // row blocks of a tile
constexpr int kStageAtoms = 2, kStageK = 32, kStages = 4;  // per stage of the ring
constexpr int kTokenStride = kStageK + 8;                  // 80 bytes: the eight rows of ldmatrix meet no bank twice

template <int TN>
struct GemmShape {
  static constexpr int kBlocks = TN == 128 ? 2 : 1;  // row blocks of a warp
  static constexpr int kWarpsDown = kGemmBlocks / kBlocks, kWarpsAcross = 8 / kWarpsDown;
  static constexpr int kTiles = TN / 8 / kWarpsAcross;  // of 8 tokens, of a warp
  static constexpr int kCopies = (TN * 4 + kGemmThreads - 1) / kGemmThreads;
  static constexpr int kWeightBytes = kGemmBlocks * kStageAtoms * 512,
                       kStageBytes = kWeightBytes + TN * kTokenStride * 2;
  static constexpr int kBytes = kStages * kStageBytes;
};

// What one tile multiplies. row: offsets of the activation rows that this thread copies; negative: zeros.
template <int TN>
struct GemmOperands {
  const U32x4* atoms;
  int64_t part_step;
  int weight_parts;
  int64_t blocks, block0;  // row blocks of the matrix; first of the tile
  const bf16* x;
  int64_t x_step;
  int x_parts;
  int64_t k;
  bool aligned;  // 16-byte copies may be used
  int64_t row[GemmShape<TN>::kCopies];
};

// A fragments of one k16 step from what lies in shared memory.
SMOE_DEVICE U32x4 a_fragment(const unsigned char* weights, int block, int atom) {
  return lds(reinterpret_cast<const U32x4*>(weights) + (block * kStageAtoms + atom) * 32 + lane());
}

// Whether every 16-byte chunk of the rows is aligned and lies wholly inside.
SMOE_DEVICE bool rows_aligned(const Planes& x, int64_t stride, int64_t step, int64_t k) {
  return (reinterpret_cast<uintptr_t>(x.data) | static_cast<uintptr_t>((x.step | stride | step | k) * 2)) % 16 == 0;
}

template <int TN>
SMOE_DEVICE bf16* stage_tokens(unsigned char* stage) {
  return reinterpret_cast<bf16*>(stage + GemmShape<TN>::kWeightBytes);
}

// Columns [32 at, 32 at + 32) of part `part` of the rows.
template <int TN>
SMOE_DEVICE void load_tokens(const GemmOperands<TN>& in, int64_t at, int part, unsigned char* stage) {
  const bf16* const x = in.x + off(part, in.x_step);
  bf16* const tokens = stage_tokens<TN>(stage);
  SMOE_UNROLL
  for (int i = 0; i < GemmShape<TN>::kCopies; ++i) {
    const int chunk = tid() + i * kGemmThreads;
    if (chunk >= TN * 4) break;
    const int64_t k = at * kStageK + chunk % 4 * 8;
    bf16* const to = tokens + chunk / 4 * kTokenStride + chunk % 4 * 8;
    const bool real = in.row[i] >= 0 && k < in.k;
    if (in.aligned) {
      cp16(to, real ? x + in.row[i] + k : in.x, real);
    } else {
      SMOE_UNROLL4
      for (int j = 0; j < 8; ++j) sts(to + j, real && k + j < in.k ? ldg(x + in.row[i] + k + j) : bf16{0});
    }
  }
}

// B fragments of 16 tokens from `token` on, k16 step `step` of the stage: r[0], r[1] of the first eight.
SMOE_DEVICE void load_token_pair(uint32_t (&r)[4], const bf16* tokens, int token, int step) {
  const int row = token + lane() / 16 * 8 + lane() % 8;
  ldmatrix_x4(r, tokens + row * kTokenStride + step * 16 + lane() / 8 % 2 * 8);
}

template <int TN>
SMOE_DEVICE void load_stage(const GemmOperands<TN>& in, int64_t step, unsigned char* stage) {
  const int64_t atoms = atoms_along(in.k), steps = (atoms + kStageAtoms - 1) / kStageAtoms, atom0 = step % steps * 2;
  const int pair = static_cast<int>(step / steps);
  // Pairs (p, q) of parts with p + q <= 2, large products first; digits of a table when both have three.
  const bool both = in.weight_parts == 3 && in.x_parts == 3;
  const int p = both ? (0x210100 >> 4 * pair) & 15 : in.weight_parts == 3 ? pair : 0;
  const int q = both ? (0x012010 >> 4 * pair) & 15 : in.x_parts == 3 ? pair : 0;
  const U32x4* const weights = in.atoms + off(p, in.part_step);
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int chunk = tid() + i * kGemmThreads, block = chunk / 64, atom = chunk / 32 % 2;
    const bool real = in.block0 + block < in.blocks && atom0 + atom < atoms;
    const int64_t from = off(in.block0 + block, atoms) + atom0 + atom;
    cp16(stage + chunk * 16, real ? weights + from * 32 + chunk % 32 : in.atoms, real);
  }
  load_tokens<TN>(in, step % steps, q, stage);
}

template <int TN>
SMOE_DEVICE void multiply_tile(const GemmOperands<TN>& in, unsigned char* ring,
                               float (&acc)[GemmShape<TN>::kBlocks][GemmShape<TN>::kTiles][4]) {
  using S = GemmShape<TN>;
  const int pairs = in.weight_parts == 3 && in.x_parts == 3 ? 6 : in.weight_parts == 3 || in.x_parts == 3 ? 3 : 1;
  const int64_t steps = pairs * ((atoms_along(in.k) + kStageAtoms - 1) / kStageAtoms);
  const int down = warp() % S::kWarpsDown * S::kBlocks, across = warp() / S::kWarpsDown * S::kTiles * 8;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load_stage<TN>(in, s, ring + s * S::kStageBytes);
    cp_commit();
  }
  for (int64_t step = 0; step < steps; ++step) {
    cp_wait<kStages - 2>();
    sync();
    unsigned char* const stage = ring + step % kStages * S::kStageBytes;
    const bf16* const tokens = stage_tokens<TN>(stage);
    SMOE_UNROLL
    for (int atom = 0; atom < kStageAtoms; ++atom) {
      U32x4 a[S::kBlocks];
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) a[b] = a_fragment(stage, down + b, atom);
      SMOE_UNROLL
      for (int tile = 0; tile < S::kTiles; tile += 2) {
        uint32_t r[4];
        load_token_pair(r, tokens, across + tile * 8, atom);
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          mma_bf16(acc[b][tile], a[b].x, b0);
          mma_bf16(acc[b][tile + 1], a[b].x, b1);
        }
      }
    }
    // The stage that everybody left before the barrier above.
    const int64_t next = step + kStages - 1;
    if (next < steps) load_stage<TN>(in, next, ring + next % kStages * S::kStageBytes);
    cp_commit();
  }
  cp_wait<0>();
  sync();
}

}  // namespace smoe::cu
