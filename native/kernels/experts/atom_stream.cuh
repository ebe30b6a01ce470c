// Weights on their way to a warp that reads them once, at the rate of the memory: bandwidth times latency asks for 28
// KB in flight per SM of an H200 (specs/cuda-kernels.md 2.0). A ring of a warp's own in shared memory holds the atoms
// of 512 bytes that come next; in registers as many would cost 64 of every thread. A lane reads only what it copied, so
// that no barrier is needed. The ring runs on from one row block, or expert, to the next: a stream that drained between
// them would pay a whole latency each time (measured on an H200, drained and eight atoms deep: 40 to 60 % of the read
// rate).
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

constexpr int kStreamWarps = 8;

inline constexpr size_t stream_bytes(int ahead) { return static_cast<size_t>(kStreamWarps * ahead) * 512; }

// kAhead slots, of which one is in use. Runs: next(&from, &count) gives this lane's part of the warp's next run of
// atoms that lie one after the other; false after the last.
template <int kAhead, class Runs>
class AtomStream {
 public:
  // ring: stream_bytes(kAhead) of shared memory, of the block.
  SMOE_DEVICE AtomStream(U32x4* ring, const Runs& runs)
      : runs_(runs), ring_(ring + warp() * kAhead * 32 + lane()), fill_(ring_), take_(ring_) {
    SMOE_UNROLL1
    for (int i = 0; i < kAhead - 1; ++i) fill();
  }
  SMOE_DEVICE U32x4 take() {
    fill();  // the slot that was taken last
    cp_wait<kAhead - 1>();
    const U32x4 atom = lds(take_);
    take_ = next(take_);
    return atom;
  }

 private:
  SMOE_DEVICE U32x4* next(U32x4* slot) const {
    slot += 32;
    return slot == ring_ + kAhead * 32 ? ring_ : slot;
  }
  SMOE_DEVICE void fill() {
    while (left_ == 0 && more_) more_ = runs_.next(&from_, &left_);
    if (left_ > 0) {
      cp16_once(fill_, from_);
      from_ += 32;
      --left_;
    }
    fill_ = next(fill_);
    cp_commit();
  }

  Runs runs_;
  U32x4* ring_;
  U32x4 *fill_, *take_;
  const U32x4* from_ = nullptr;
  int left_ = 0;
  bool more_ = true;
};

}  // namespace smoe::cu
