// One warpgroup, C[64][N] = A[64][K] B[N][K]^T: A from global memory to registers, B through shared memory in the
// 128-byte swizzled layout (64 columns of K per tile).
#pragma once

#include "cuda/cu.h"
#include "kernels/bugs.h"

namespace smoe::cu::test {

struct WgmmaArgs {
  const bf16* a;  // [64, K]
  const bf16* b;  // [N, K]
  float* c;       // [64, N]
  int k;          // a multiple of 64
};

template <int N>
constexpr int wgmma_shared = N * 128 + 16;  // and two mbarriers

// relay: threads only say that their copies have landed, through an mbarrier, and one of them fences for all.
template <int N, Bug bug, bool relay = false>
SMOE_KERNEL(128, 1)
wgmma_gemm(WgmmaArgs args) {
  SMOE_SMEM_DYN(unsigned char, tile);
  float acc[N / 2] = {};
  const int g = lane() / 4, t = lane() % 4;
  uint64_t* const copied = reinterpret_cast<uint64_t*>(tile + N * 128);
  uint64_t* const passed = copied + 1;
  uint32_t parity = 0;
  if (relay) {
    if (tid() == 0) {
      mbar_init(copied, 128);
      mbar_init(passed, 1);
      fence_mbar_init();
    }
    sync();
  }
  for (int k0 = 0; k0 < args.k; k0 += 64) {
    for (int i = tid(); i < N * 8; i += nthreads()) {
      const int row = i / 8, chunk = i % 8;
      // Chunk c of row r lies at chunk c ^ (r % 8).
      cp16(tile + row * 128 + (chunk ^ (row & 7)) * 16, args.b + off(row, args.k) + k0 + chunk * 8);
    }
    if (relay) {
      cp_arrive(copied);
    } else {
      cp_commit();
    }
    uint32_t a[4][4];
    for (int step = 0; step < 4; ++step) {
      for (int reg = 0; reg < 4; ++reg) {
        const int row = warp() * 16 + g + 8 * (reg & 1), col = k0 + step * 16 + 2 * t + 8 * (reg >> 1);
        a[step][reg] = ldg(reinterpret_cast<const uint32_t*>(args.a + off(row, args.k) + col));
      }
    }
    if (relay) {
      if (tid() == 0) {
        mbar_wait(copied, parity);
        if (bug != Bug::MissingProxyFence) fence_proxy_async();
        mbar_arrive(passed);
      }
      sync_warp();
      mbar_wait(bug == Bug::MissingWait ? copied : passed, parity);
      parity ^= 1;
    } else {
      cp_wait<0>();
      if (bug != Bug::MissingProxyFence) fence_proxy_async();
      sync();
    }
    if (bug != Bug::MissingWgmmaFence) wgmma_fence();
    for (int step = 0; step < 4; ++step) {
      // Each k16 step is 32 bytes further along the swizzled row.
      const uint64_t b = wgmma_descriptor(shared_address(tile) + step * 32, 16, 1024, Swizzle::Bytes128);
      wgmma_rs<N>(acc, a[step], b);  // fault: MissingProxyFence MissingWait MissingWgmmaFence TouchedAccumulator
    }
    wgmma_commit();
    if (bug == Bug::TouchedAccumulator) acc[0] += 1.0f;
    wgmma_wait<0>();
    if (bug != Bug::MissingReuseBarrier) sync();
  }
  for (int reg = 0; reg < N / 2; ++reg) {
    const Element at = wgmma_d_element(warp(), lane(), reg);
    stg(args.c + off(at.row, N) + at.col, acc[reg]);
  }
}

}  // namespace smoe::cu::test
