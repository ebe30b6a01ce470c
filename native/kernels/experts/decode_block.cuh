// How a block of K2 or K3 shares its work among its warps. K of a matrix is cut into slices; a slice of one row block
// of one expert is an item. Warps take items in turn and meet after each round of eight, where the slices of a row
// block are added up in order. So a warp has a long run of atoms at a time whatever K is, and what an item costs beside
// its atoms is paid by one warp. Slices are a function of K alone: the order of additions does not depend on the batch.
#pragma once

#include "kernels/experts/active_list.cuh"
#include "kernels/experts/atom_stream.cuh"

namespace smoe::cu {

constexpr int kExpertWarps = kStreamWarps, kExpertThreads = 32 * kExpertWarps;

// Sums of a warp's item, [tile][16 rows][8 columns]: with a pitch of 10, 16 rows of two columns meet no bank twice.
constexpr int kSumPitch = 10, kTileSums = kAtomRows * kSumPitch;

// Two blocks per SM are meant to run at a time: 15 atoms of 16 warps are 120 KB in flight; one block still has the 28
// KB that latency asks for. Together with the sums and a list of 1024 experts, 20 KB, it fits the 99 KB of sm_86.
SMOE_HD constexpr int decode_ahead(int tiles) { return tiles == 1 ? 16 : tiles <= 4 ? 14 : 9; }
// Buffers of a round's sums: with two, warps may be a round apart.
SMOE_HD constexpr int decode_buffers(int tiles) { return tiles <= 2 ? 2 : 1; }
SMOE_HD constexpr int decode_sums(int tiles) { return decode_buffers(tiles) * kExpertWarps * tiles * kTileSums; }

inline size_t decode_shared_bytes(int tiles, int experts) {
  return stream_bytes(decode_ahead(tiles)) + static_cast<size_t>(decode_sums(tiles)) * sizeof(float) +
         active_bytes(experts);
}

// What decode_shared_bytes() counts.
template <int NT>
struct DecodeShared {
  U32x4* ring;
  float* sums;
  ActiveList list;
  SMOE_DEVICE DecodeShared(unsigned char* base, int experts)
      : ring(reinterpret_cast<U32x4*>(base)),
        sums(reinterpret_cast<float*>(base + kStreamWarps * decode_ahead(NT) * 512)),
        list(reinterpret_cast<unsigned char*>(sums + decode_sums(NT)), experts) {}
  // Of item `item` of a round.
  SMOE_DEVICE float* sums_of(int buffer, int item) const {
    return sums + (buffer * kExpertWarps + item) * NT * kTileSums;
  }
};

// 1 << shift slices: at least 256 columns of bf16, 16 atoms; at least 1024 of codes, 8 atoms at two bits.
SMOE_DEVICE int slice_shift(int64_t k, bool bf16_only) {
  const int64_t least = bf16_only ? 256 : 1024;
  int shift = 0;
  while (1 << shift < kExpertWarps && k >= (2 * least) << shift) ++shift;
  return shift;
}

// multiply(item, sums): one warp, for the items [0, items). finish(item of the round's first, buffer): all warps.
template <int NT, class Multiply, class Finish>
SMOE_DEVICE void decode_rounds(const DecodeShared<NT>& shared, int items, Multiply multiply, Finish finish) {
  int buffer = 0;
  SMOE_UNROLL1
  for (int base = 0; base < items; base += kExpertWarps) {
    if (base + warp() < items) multiply(base + warp(), shared.sums_of(buffer, warp()));
    sync();
    finish(base, buffer);
    if (decode_buffers(NT) == 1) sync();
    buffer = (buffer + 1) % decode_buffers(NT);
  }
}

// A warp's sums, [NT] tiles of them in shared memory.
template <int NT>
SMOE_DEVICE void share_sums(const float (&acc)[NT][4], int tiles, float* sums) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile >= tiles) break;
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Element at = c_element(lane(), 2 * half);
      sts(reinterpret_cast<U32x2*>(sums + tile * kTileSums + at.row * kSumPitch + at.col),
          U32x2{{bit_cast<uint32_t>(acc[tile][2 * half]), bit_cast<uint32_t>(acc[tile][2 * half + 1])}});
    }
  }
}

}  // namespace smoe::cu
