// Reductions: inside a block, and over blocks through a last-arriver ticket.
#pragma once

#include "cuda/cu.h"
#include "kernels/bugs.h"

namespace smoe::cu::test {

SMOE_DEVICE float warp_sum(float x) {
  for (int bits = 16; bits > 0; bits /= 2) x += shfl_xor(x, bits);
  return x;
}

struct BlockReduceArgs {
  const float* in;  // [blocks, threads]
  float* out;       // [blocks]
};

// One float per thread. Order of additions: butterflies in warps, then in the first warp.
template <Bug bug>
SMOE_KERNEL(256, 1)
block_reduce(BlockReduceArgs args) {
  SMOE_SMEM(float, partial, 32);
  float x = ldg(args.in + off(bid(), nthreads()) + tid() + (bug == Bug::OutOfBounds ? 1 : 0));  // fault: OutOfBounds
  if (bug == Bug::DivergentShuffle && lane() < 16) {
    x += shfl_xor(x, 1);  // fault: DivergentShuffle
  }
  x = warp_sum(x);
  if (lane() == 0) sts(partial + (bug == Bug::SharedRace ? 0 : warp()), x);  // fault: SharedRace
  if (bug == Bug::ExitBeforeBarrier && warp() == 1 && lane() >= 8) return;
  if (bug != Bug::DivergentBarrier || warp() != 2 || lane() % 2 == 0) {
    sync();  // fault: DivergentBarrier ExitBeforeBarrier
  }
  if (warp() > 0) return;
  const int warps = nthreads() / 32;
  if (bug == Bug::SharedOutOfBounds) {
    x = lds(partial + 1 + lane());  // fault: SharedOutOfBounds
  } else {
    x = lane() < warps ? lds(partial + lane()) : 0.0f;
  }
  x = warp_sum(x);
  if (lane() != 0) return;
  if (bug == Bug::Misaligned) {
    stg(reinterpret_cast<U32x2*>(args.out + 1), U32x2{{0, 0}});  // fault: Misaligned
  }
  stg(args.out + bid(), x);
}

struct TicketArgs {
  const float* in;   // [blocks, threads]
  float* partials;   // [blocks]
  uint32_t* ticket;  // zero before the first launch, and after every launch
  float* out;        // [1]
};

// The last block sums what all blocks stored, in block order: who sums varies, the result does not.
template <Bug bug>
SMOE_KERNEL(128, 1)
ticket_reduce(TicketArgs args) {
  SMOE_SMEM(float, partial, 4);
  SMOE_SMEM(uint32_t, last, 1);
  if (bug != Bug::EarlyAccess && bug != Bug::NoPdlWait) pdl_wait();
  float x = 1.0f;
  if (bug != Bug::NoPdlWait) {
    x = warp_sum(ldg(args.in + off(bid(), nthreads()) + tid()));  // fault: EarlyAccess
    if (lane() == 0) sts(partial + warp(), x);
    sync();
    if (tid() == 32) {
      const float sum = lds(partial) + lds(partial + 1) + lds(partial + 2) + lds(partial + 3);
      stg(args.partials + bid(), sum);  // fault: MissingAcquire
    }
    if (bug != Bug::MissingTicketBarrier) sync();
    if (tid() == 0) {
      if (bug != Bug::MissingTicketFence) fence_gpu();
      const bool is_last = ticket_add(args.ticket, nblocks()) + 1 ==  // fault: MissingTicketFence MissingTicketBarrier
                           static_cast<uint32_t>(nblocks());
      sts(last, is_last ? 1u : 0u);
    }
    sync();
    if (lds(last) == 0 && bug != Bug::MissingAcquire) return;
    if (tid() != 0) return;
    float sum = 0;
    for (int i = 0; i < nblocks(); ++i) sum += ldg(args.partials + i);  // fault: MissingAcquire ReadBeforeWrite
    if (lds(last) != 0) stg(args.out, sum);
  }
}

// What the rules forbid: every block waits until all have arrived.
SMOE_KERNEL(32, 1) grid_barrier(TicketArgs args) {
  if (tid() == 0) {
    fence_gpu();
    ticket_add(args.ticket, nblocks() + 1);
    while (ld_acquire(args.ticket) < static_cast<uint32_t>(nblocks())) {  // fault: GridBarrier
    }
  }
  sync();
}

// A warp turns its 32 values around through shared memory.
template <Bug bug>
SMOE_KERNEL(64, 1)
warp_reverse(BlockReduceArgs args) {
  SMOE_SMEM(float, row, 64);
  sts(row + tid(), ldg(args.in + off(bid(), nthreads()) + tid()));
  if (bug != Bug::MissingSyncWarp) sync_warp();
  const float x = lds(row + warp() * 32 + 31 - lane());  // fault: MissingSyncWarp
  stg(args.out + off(bid(), nthreads()) + tid(), x);
}

}  // namespace smoe::cu::test
