// Tiled bf16 GEMM with double-buffered cp.async, ldmatrix and mma: C[M][N] = A[M][K] B[N][K]^T in f32. A block makes
// 64 x 32, four warps of 16 rows.
#pragma once

#include "cuda/cu.h"
#include "kernels/bugs.h"

namespace smoe::cu::test {

struct GemmArgs {
  const bf16* a;  // [M, K]
  const bf16* b;  // [N, K]
  float* c;       // [M, N]
  int m, n, k;    // multiples of 64, 32, 32
};

constexpr int kGemmM = 64, kGemmN = 32, kGemmK = 32;
// One 16-byte chunk of padding makes the row pitch an odd multiple of 16: ldmatrix rows then lie in different banks.
constexpr int kGemmPitch = kGemmK + 8;
constexpr int kGemmStage = (kGemmM + kGemmN) * kGemmPitch;
constexpr int kGemmShared = 2 * kGemmStage * static_cast<int>(sizeof(bf16));

SMOE_DEVICE void load_stage(const GemmArgs& args, bf16* stage, int row0, int col0, int k0) {
  constexpr int chunks = kGemmK / 8;
  for (int i = tid(); i < (kGemmM + kGemmN) * chunks; i += nthreads()) {
    const int row = i / chunks, k = i % chunks * 8;
    const bf16* const from =
        row < kGemmM ? args.a + off(row0 + row, args.k) : args.b + off(col0 + row - kGemmM, args.k);
    cp16(stage + row * kGemmPitch + k, from + k0 + k);  // fault: MissingReuseBarrier CopyAtExit
  }
  cp_commit();
}

template <Bug bug>
SMOE_KERNEL(128, 1)
gemm(GemmArgs args) {
  SMOE_SMEM_DYN(bf16, shared);
  const int tiles_n = args.n / kGemmN;
  const int row0 = bid() / tiles_n * kGemmM, col0 = bid() % tiles_n * kGemmN;
  float acc[kGemmN / 8][4] = {};
  const int steps = args.k / kGemmK;
  load_stage(args, shared, row0, col0, 0);
  for (int step = 0; step < steps; ++step) {
    bf16* const stage = shared + step % 2 * kGemmStage;
    if (step + 1 < steps) {
      load_stage(args, shared + (step + 1) % 2 * kGemmStage, row0, col0, (step + 1) * kGemmK);
      if (bug != Bug::MissingWait) cp_wait<1>();
    } else {
      if (bug != Bug::MissingWait) cp_wait<0>();
    }
    if (bug != Bug::MissingBarrier) sync();
    for (int k = 0; k < kGemmK; k += 16) {
      uint32_t a[4];
      // Matrices: rows 0-7 and 8-15 at k, then both at k + 8, which is the order of a0..a3.
      const bf16* const row = stage + (warp() * 16 + lane() % 16) * kGemmPitch;
      ldmatrix_x4(a, row + k + lane() / 16 * 8);  // fault: MissingWait MissingBarrier
      for (int tile = 0; tile < kGemmN / 8; ++tile) {
        uint32_t b[2];
        ldmatrix_x2(b, stage + (kGemmM + tile * 8 + lane() % 8) * kGemmPitch + k + lane() / 8 % 2 * 8);
        mma_bf16(acc[tile], a, b);
      }
    }
    if (bug != Bug::MissingReuseBarrier) sync();
  }
  if (bug == Bug::CopyAtExit) load_stage(args, shared, row0, col0, 0);
  for (int tile = 0; tile < kGemmN / 8; ++tile) {
    for (int reg = 0; reg < 4; ++reg) {
      const Element at = c_element(lane(), reg);
      stg(args.c + off(row0 + warp() * 16 + at.row, args.n) + col0 + tile * 8 + at.col, acc[tile][reg]);
    }
  }
}

}  // namespace smoe::cu::test
