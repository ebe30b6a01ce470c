// Weights on their way to a warp that reads them once, at the rate of the memory: bandwidth times latency asks for 28
// KB in flight per SM of an H200 (specs/cuda-kernels.md 2.0). A ring of a warp's own in shared memory holds the atoms
// of 512 bytes that come next; in registers as many would cost 64 of every thread. A lane reads only what it copied, so
// that no barrier is needed. The ring runs on from one row block, or expert, to the next: a stream that drained between
// them would pay a whole latency each time (measured on an H200, drained and eight atoms deep: 40 to 60 % of the read
// rate).
#pragma once

#include "cuda/cu.h"

namespace smoe::cu {

// Two batches of kBatch atoms: while one is multiplied the other is under way. Batches, so that places in the ring are
// constants of an unrolled loop and what there is to decide is decided once for all of them. Runs: next(&from, &count)
// gives this lane's part of the warp's next run of atoms that lie one after the other; false after the last. A batch
// does not reach past the end of a run.
constexpr int kStreamBatches = 2;
inline size_t stream_bytes(int warps, int batch) { return static_cast<size_t>(warps * kStreamBatches * batch) * 512; }

template <int kBatch, class Runs>
class AtomStream {
 public:
  static constexpr int kAtoms = kBatch;

  // ring: stream_bytes(warps, kBatch) of shared memory, of the block.
  SMOE_DEVICE AtomStream(U32x4* ring, const Runs& runs)
      : runs_(runs), ring_(ring + warp() * kStreamBatches * kBatch * 32 + lane()) {
    SMOE_UNROLL1
    for (int i = 0; i < kStreamBatches; ++i) {
      fill();
      turn();
    }
  }
  // The next batch: atom j, j < kBatch and inside the run, is lds(take() + 32 j).
  SMOE_DEVICE const U32x4* take() const {
    cp_wait<kStreamBatches - 1>();
    return ring_ + place_;
  }
  // What take() gave has been read.
  SMOE_DEVICE void give() {
    fill();
    turn();
  }

 private:
  SMOE_DEVICE void turn() { place_ = place_ == 0 ? kBatch * 32 : 0; }
  SMOE_DEVICE void fill() {
    while (left_ == 0 && more_) more_ = runs_.next(&from_, &left_);
    if (left_ >= kBatch) {
      SMOE_UNROLL
      for (int j = 0; j < kBatch; ++j) cp16_once(ring_ + place_ + j * 32, from_ + j * 32);
    } else {
      SMOE_UNROLL1
      for (int j = 0; j < left_; ++j) cp16_once(ring_ + place_ + j * 32, from_ + j * 32);
    }
    from_ += kBatch * 32;
    left_ = left_ < kBatch ? 0 : left_ - kBatch;
    cp_commit();
  }

  Runs runs_;
  U32x4* ring_;
  int place_ = 0;
  const U32x4* from_ = nullptr;
  int left_ = 0;
  bool more_ = true;
};

// use(i, atom) for the atoms begin <= i < end, one after the other.
template <class Stream, class Use>
SMOE_DEVICE void for_atoms(Stream& stream, int begin, int end, Use use) {
  SMOE_UNROLL1
  for (int first = begin; first < end; first += Stream::kAtoms) {
    const U32x4* const atoms = stream.take();
    const int here = end - first < Stream::kAtoms ? end - first : Stream::kAtoms;
    SMOE_UNROLL1
    for (int j = 0; j < here; ++j) use(first + j, lds(atoms + j * 32));
    stream.give();
  }
}

// use(first, atoms) for kAtoms atoms from `first` on, batch after batch; past `end` they are zeros.
template <int kAtoms, class Stream, class Use>
SMOE_DEVICE void for_batches(Stream& stream, int begin, int end, Use use) {
  static_assert(Stream::kAtoms % kAtoms == 0, "whole batches");
  SMOE_UNROLL1
  for (int first = begin; first < end; first += Stream::kAtoms) {
    const U32x4* from = stream.take();
    const int stop = end - first < Stream::kAtoms ? end : first + Stream::kAtoms;
    SMOE_UNROLL1
    for (int at = first; at < stop; at += kAtoms) {
      U32x4 atoms[kAtoms];
      if (at + kAtoms <= stop) {  // without a branch between them
        SMOE_UNROLL
        for (int j = 0; j < kAtoms; ++j) atoms[j] = lds(from + j * 32);
      } else {
        SMOE_UNROLL
        for (int j = 0; j < kAtoms; ++j) atoms[j] = at + j < stop ? lds(from + j * 32) : U32x4{};
      }
      from += kAtoms * 32;
      use(at, atoms);
    }
    stream.give();
  }
}

}  // namespace smoe::cu
