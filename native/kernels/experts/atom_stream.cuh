// Weights on their way to a warp that reads them once, at the rate of the memory: bandwidth times latency asks for 28
// KB in flight per SM of an H200 (specs/cuda-kernels.md 2.0). A ring of a warp's own in shared memory holds eight atoms
// of 512 bytes, 32 KB per block of eight warps, two blocks per SM; in registers as many would cost 32 of every thread,
// and loads would have to be moved ahead of the branches of the loop that uses them. A lane reads only what it copied,
// so that no barrier is needed.
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

constexpr int kStreamWarps = 8, kAtomsAhead = 8;

// The lane's place in its warp's ring. Not a template: one array for every format that a kernel knows.
SMOE_DEVICE U32x4* atom_ring() {
  SMOE_SMEM(U32x4, ring, kStreamWarps * kAtomsAhead * 32);
  return ring + warp() * kAtomsAhead * 32 + lane();
}

// use(i, atom) for the atoms begin <= i < end. from: this lane's part of atom 0.
template <class Use>
SMOE_DEVICE void stream_atoms(const U32x4* from, int64_t begin, int64_t end, Use use) {
  U32x4* const ring = atom_ring();
  for (int i = 0; i < kAtomsAhead; ++i) {
    if (begin + i < end) cp16_once(ring + i * 32, from + (begin + i) * 32);
    cp_commit();
  }
  int slot = 0;
  for (int64_t i = begin; i < end; ++i) {
    cp_wait<kAtomsAhead - 1>();
    use(i, lds(ring + slot * 32));
    if (i + kAtomsAhead < end) cp16_once(ring + slot * 32, from + (i + kAtomsAhead) * 32);
    cp_commit();
    slot = (slot + 1) % kAtomsAhead;
  }
}

}  // namespace smoe::cu
