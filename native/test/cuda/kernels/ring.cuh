// A ring of shared-memory stages filled by bulk copies: one producer warp, consumer warps that sum every stage. The
// pattern of K2's variant V2 (specs/cuda-kernels.md 2.4).
#pragma once

#include "cuda/cu.h"
#include "kernels/bugs.h"

namespace smoe::cu::test {

struct RingArgs {
  const float* in;  // [blocks, pieces, kRingFloats]
  float* out;       // [blocks, kRingFloats]: sums over pieces
  int pieces;
};

constexpr int kRingStages = 3, kRingFloats = 128, kRingConsumers = 4;
constexpr int kRingThreads = 32 * (kRingConsumers + 1);
constexpr int kRingShared = kRingStages * kRingFloats * 4;

template <Bug bug>
SMOE_KERNEL(kRingThreads, 1)
ring_sum(RingArgs args) {
  SMOE_SMEM_DYN(float, stages);
  SMOE_SMEM(uint64_t, full, kRingStages);
  SMOE_SMEM(uint64_t, empty, kRingStages);
  if (tid() == 0) {
    for (int s = 0; s < kRingStages; ++s) {
      mbar_init(full + s, 1);
      mbar_init(empty + s, kRingConsumers);
    }
    fence_mbar_init();
  }
  // Stages start as zeros, so that the generic writes need a proxy fence before the copies.
  for (int i = tid(); i < kRingStages * kRingFloats; i += nthreads()) sts(stages + i, 0.0f);
  if (bug != Bug::MissingProxyFence) fence_proxy_async();
  sync();
  if (warp() == kRingConsumers) {
    if (lane() != 0) return;
    for (int piece = 0; piece < args.pieces; ++piece) {
      const int s = piece % kRingStages, lap = piece / kRingStages;
      // The first lap finds the stages empty: the phase before the first has the odd parity.
      if (bug != Bug::MissingReuseBarrier) mbar_wait(empty + s, (lap & 1) ^ 1);
      const uint32_t bytes = kRingFloats * 4;
      mbar_arrive_expect(full + s, bug == Bug::WrongBytes && piece == 2 ? bytes + 16 : bytes);
      const float* const from = args.in + off(off(bid(), args.pieces) + piece, kRingFloats);
      float* const to = stages + s * kRingFloats;
      bulk_g2s(to, from, bytes, full + s);  // fault: MissingProxyFence MissingReuseBarrier MissingWait
    }
    return;
  }
  float sum = 0;
  for (int piece = 0; piece < args.pieces; ++piece) {
    const int s = piece % kRingStages, lap = piece / kRingStages;
    if (bug != Bug::MissingWait) mbar_wait(full + s, lap & 1);  // fault: WrongBytes
    sum += lds(stages + s * kRingFloats + tid());               // fault: MissingWait
    sync_warp();
    if (lane() == 0) mbar_arrive(empty + s);
  }
  stg(args.out + off(bid(), kRingFloats) + tid(), sum);
}

}  // namespace smoe::cu::test
